"""`distredge deploy`: providers on devices, over ssh."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distredge.cli.output import JsonFlag, Seed, console, emit, errors
from distredge.errors import DistrEdgeError, InputError, RunError, UnknownNameError

if TYPE_CHECKING:
    from distredge.runtime.deploy.inventory import Device, Inventory


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("deploy")(deploy)


def deploy(
    inventory_file: Annotated[Path, typer.Argument(metavar="INVENTORY", help="YAML: keys, folder, devices.")],
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME...]", help="By default all devices.")] = None,
    wheel: Annotated[
        Path | None, typer.Option("--wheel", metavar="FILE", help="DistrEdge, as `scripts/deploy` builds it.")
    ] = None,
    service: Annotated[
        bool, typer.Option("--service/--no-service", help="Have systemd run it, or only install it.")
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be sent and run, and do nothing.")
    ] = False,
    as_json: JsonFlag = False,
    seed: Seed = 0,
) -> None:
    """Install providers on devices over ssh, or bring them up to date, and start them as services.

    One device after the other; one that fails does not keep the others from theirs.

    Example: distredge deploy devices.yaml --wheel distredge-0.1.0-py3-none-any.whl
    """
    from distredge.runtime.deploy.inventory import load_inventory

    inventory = load_inventory(inventory_file)
    if wheel is None or wheel.suffix != ".whl" or not wheel.is_file():
        raise InputError(f"--wheel {wheel or ''}: give the wheel of DistrEdge; `scripts/deploy` builds it".strip())
    chosen = _chosen(inventory, names or [])
    if dry_run:
        emit(as_json, _planned(inventory, chosen, wheel, service), lambda: _show(inventory, chosen, wheel, service))
        return
    results = [_deploy_one(inventory, device, wheel, service) for device in chosen]
    emit(as_json, {"devices": results}, lambda: None)
    failed = [r["name"] for r in results if not r["ok"]]
    if failed:
        raise RunError(f"{len(failed)} of {len(results)} devices have failed: {', '.join(map(str, failed))}")


def _chosen(inventory: Inventory, names: Sequence[str]) -> list[Device]:
    known = {device.name: device for device in inventory.devices}
    for name in names:
        if name not in known:
            raise UnknownNameError("device", name, known)
    return [known[name] for name in dict.fromkeys(names)] or list(inventory.devices)


def _deploy_one(inventory: Inventory, device: Device, wheel: Path, service: bool) -> dict[str, object]:
    """Install on one device and say at once how that went, on stderr: it may take minutes."""
    from distredge.measure.shell import Shell
    from distredge.runtime.deploy.device import bundle, install

    ok = True
    try:
        with closing(Shell(device.login)) as board:
            said = install(board, bundle(device, inventory, wheel, service))
    except DistrEdgeError as exc:
        ok, said = False, str(exc)
    errors.print(f"{device.name}: {said}", markup=False, soft_wrap=True)
    return {"name": device.name, "host": device.host, "ok": ok, "said": said}


def _planned(inventory: Inventory, chosen: Sequence[Device], wheel: Path, service: bool) -> dict[str, object]:
    """What would be done, as JSON-ready data."""
    from distredge.runtime.deploy.device import SCRIPT, bundle, settings, shipped

    return {
        "script": SCRIPT,
        "install.sh": shipped("install.sh"),
        "devices": [
            {
                "name": device.name,
                "login": device.login,
                "settings": settings(device, inventory.folder, service),
                "files": list(bundle(device, inventory, wheel, service)),
            }
            for device in chosen
        ],
    }


def _show(inventory: Inventory, chosen: Sequence[Device], wheel: Path, service: bool) -> None:
    from distredge.runtime.deploy.device import SCRIPT, bundle, settings, shipped

    def tell(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    for device in chosen:
        tell(f"# {device.name}: sent as a tar file to `ssh {device.login}`, where it goes to a temporary folder")
        for name in bundle(device, inventory, wheel, service):
            tell(f"#   {name}")
        tell(settings(device, inventory.folder, service).rstrip())
    tell(f"# and then there\n{SCRIPT}\n# which is install.sh:\n{shipped('install.sh').rstrip()}")
