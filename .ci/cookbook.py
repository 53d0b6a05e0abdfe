"""What hatchling asks for when it builds a wheel: the cookbook's records and texts."""

from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CustomBuildHook(BuildHookInterface):
    """Copies recipes/ into the package, but for its pictures."""

    def initialize(self, version: str, build_data: dict) -> None:
        """Name the files, unless the install is editable and reads the checkout's."""
        if version == "editable":
            return
        folder = Path(self.root, "recipes")
        for file in sorted([*folder.rglob("*.jsonl"), *folder.rglob("*.md")]):
            place = Path("kerascnn/cookbook", file.relative_to(folder))
            build_data["force_include"][str(file)] = place.as_posix()
