"""Curves and summaries of runs, and the cookbook; `page` makes the HTML pages."""
