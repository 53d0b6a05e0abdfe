"""On which devices a run's batches are computed: for its record, and in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from kerascnn.engine import fit
from kerascnn.process import cores, hosts, machine

if TYPE_CHECKING:
    from kerascnn.training.case import Case


def placed(case: Case) -> dict[str, Any]:
    """Return on how many devices a batch is computed, and how many images on each."""
    plan, devices, filled = case.plan, 1, True
    if keras.backend.backend() == "jax":
        from kerascnn.engine import placement

        mesh = fit.mesh_of(case.model, plan)
        devices = mesh.size if mesh else 1
        filled = placement.is_filled_up(case.model)
    return {
        "processes": hosts.number(),
        "devices": devices,
        "batch_size": plan.batch_size,
        "images_per_device": -(-plan.batch_size // devices),
        "filled_up": filled,
    }


def said(case: Case, placed: dict[str, Any]) -> list[str]:
    """Say on which devices a run's batches are computed, where there are several."""
    devices, batch = placed["devices"], placed["batch_size"]
    found = []
    if devices > 1:
        processes = placed["processes"]
        of = f" of {processes} processes" * (processes > 1)
        each = placed["images_per_device"]
        found.append(
            f"Batches of {batch:,} on {devices} devices{of}: {each:,} "
            f"image{'s' * (each > 1)} each."
        )
        asked, number = case.plan.devices or 0, cores.available()
        if asked > number and machine.device() == "cpu":
            found.append(
                f"--devices {asked} are more than this process's {number} "
                f"core{'s' * (number > 1)}: each holds a copy of the weights, and none "
                "makes a step faster."
            )
    if not placed["filled_up"]:
        from kerascnn.engine import placement

        asked = case.plan.devices
        most = placement.available(asked)
        if devices < most and placement.mesh(case.model, most * batch, asked):
            found.append(
                f"{placement.unknown_layer(case.model)} may look at several images at "
                f"once, so a batch of {batch:,} is not filled up for {most} devices: "
                f"{devices} take{'s' * (devices == 1)} it. Batches that {most} divides "
                "go to all."
            )
    return found
