"""What hatchling asks for when it builds: README with links that work anywhere."""

import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

# A link or a picture to a place in the checkout: not to a heading or another site.
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!#|\w+:)([^)]+)\)")


class CustomMetadataHook(MetadataHookInterface):
    """Gives README as an index of packages shows it, which has no checkout."""

    def update(self, metadata: dict) -> None:
        """Add the text, with the links of the checkout at the project's source."""
        source = metadata["urls"]["Source"]

        def absolute(link: re.Match) -> str:
            picture, shown, place = link.groups()
            kind = "raw" if picture else "blob"
            return f"{picture}[{shown}]({source}/{kind}/HEAD/{place})"

        text = Path(self.root, "README.md").read_text("utf-8")
        text = LINK.sub(absolute, text)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
