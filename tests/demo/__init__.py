"""Tests of the page of a run; a package, because tests/data has a conftest too."""
