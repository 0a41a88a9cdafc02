"""An inventory: the devices that are to be providers, and how they are reached."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, PrivateAttr, model_validator

from distredge.config import Frozen, Version1, read_yaml
from distredge.errors import InputError
from distredge.runtime.transport import parse_address
from distredge.scenario import NODE_NAME, REQUESTER


def _address(text: str) -> str:
    try:
        _, port = parse_address(text)
    except InputError as exc:
        raise ValueError(str(exc)) from exc
    if not port:
        raise ValueError("name the port: nobody would know which one was free")
    return text


class Device(Frozen):
    """A device, for which ssh works without a question."""

    name: str = Field(pattern=NODE_NAME, description="as in scenarios and plans")
    host: str = Field(pattern=r"^[A-Za-z0-9][^\s@]*$", description="an address, or a name from ~/.ssh/config")
    user: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", description="null: as ssh is set up"
    )
    listen: Annotated[str, AfterValidator(_address)] = Field(
        default="0.0.0.0:5701", pattern=r"^[A-Za-z0-9.:\[\]_-]+$", description="HOST:PORT"
    )
    python: str = Field(default="python3", min_length=1, description="3.10 or newer")

    @property
    def login(self) -> str:
        """What ssh is told."""
        return f"{self.user}@{self.host}" if self.user else self.host


class Inventory(Frozen):
    """Devices, and what they have in common (`schema_version` 1)."""

    schema_version: Version1 = 1
    keys: str = Field(default="keys", min_length=1, description="a path relative to the file")
    folder: str = Field(default="/opt/distredge", pattern=r"^(/[A-Za-z0-9_.-]+)+$", description="on the devices")
    devices: tuple[Device, ...] = Field(min_length=1)
    _folder: Path = PrivateAttr(default=Path())

    @model_validator(mode="after")
    def _names_differ(self) -> Inventory:
        names = [d.name for d in self.devices]
        for name in names:
            if name == REQUESTER:
                raise ValueError(f"no provider may be named '{REQUESTER}'")
            if names.count(name) > 1:
                raise ValueError(f"two devices are named '{name}'")
        return self

    @property
    def keys_folder(self) -> Path:
        """Where `distredge keys` wrote the keys."""
        return self._folder / self.keys


def load_inventory(path: Path) -> Inventory:
    """Read one from YAML; raises `InputError` if it is malformed, or if there is no key of a device."""
    inventory = read_yaml(path, Inventory, InputError)
    inventory._folder = path.parent
    public = inventory.keys_folder / "public"
    for name in (REQUESTER, *(d.name for d in inventory.devices)):
        if not (public / f"{name}.key").is_file():
            raise InputError(f"'{public}' has no key of '{name}': make keys with `distredge keys`")
    return inventory
