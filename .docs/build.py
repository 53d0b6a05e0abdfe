"""Build the documentation: `python .docs/build.py [OUT]`, by default into build/docs.

Needs the extra `docs`, and neither a network nor a GPU; trains nothing. A warning of
Sphinx, such as a link that leads nowhere, is an error, and the exit code is then 1.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "build" / "docs"


def main(words: list[str]) -> int:
    """Write the generated pages, then the site; return the exit code."""
    if len(words) > 1 or any(word.startswith("-") for word in words):
        print("expected at most one folder: python .docs/build.py [OUT]")
        return 2
    out = Path(words[0] if words else OUT).resolve()
    if (out / "objects.inv").exists():  # a site from before
        shutil.rmtree(out)
    elif out.exists() and any(out.iterdir()):
        print(f"{out} holds other files: name a new folder.")
        return 2
    os.environ["KERAS_BACKEND"] = "jax"
    os.environ["JAX_PLATFORMS"] = "cpu"
    sys.path[:0] = [str(HERE.parent), str(HERE)]

    import pages
    from sphinx.cmd import build

    pages.write(HERE / "generated")
    with tempfile.TemporaryDirectory() as doctrees:
        strict = ["--fail-on-warning", "--keep-going", "--nitpicky", "--quiet"]
        code = build.build_main([*strict, "-d", doctrees, str(HERE), str(out)])
    if code == 0:
        print(out / "index.html")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
