"""The test-bed: a scenario's providers as processes in a star of namespaces, and a requester's place in it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from distredge.errors import InputError, RunError, UnknownNameError
from distredge.runtime.keys import create_keys
from distredge.runtime.launch import Launcher, Place
from distredge.runtime.testbed.guard import Guard
from distredge.runtime.testbed.namespaces import check_host
from distredge.runtime.testbed.quota import Quotas, find_controller, quota
from distredge.runtime.testbed.replay import Replay, read_trace
from distredge.runtime.testbed.scale import scaled, write_scenario
from distredge.runtime.testbed.star import Star
from distredge.scenario import REQUESTER, Scenario


class Testbed:
    """A real network on this machine for a scenario; a context manager.

    Entering makes a namespace for the requester and for each provider, joins them by links that are shaped to the
    scenario's rates if `shaped`, and starts a `distredge provider` in each. `cpu` gives some providers a share of a
    core. `scale` divides all rates and multiplies all times (see `scaled`); `scenario` is what that makes of it.
    `addresses` is then where they listen, `keys` the folder of the run's keys, `scenario_file` the scenario's file.
    Nothing of the machine's own network changes. All is gone after leaving, and when this process is killed.

    Raises `InputError` where the machine or user cannot have one, `RunError` if the machine refuses something.
    """

    __test__ = False  # for pytest, which takes what is called so for tests

    addresses: dict[str, str]
    keys: Path
    folder: Path
    """For files that the test-bed's runs need; removed with it."""
    scenario_file: Path

    def __init__(
        self, scenario: Scenario, *, cpu: Mapping[str, float] | None = None, shaped: bool = True, scale: float = 1.0
    ) -> None:
        self.scenario = scaled(scenario, scale)
        self._scale, self._cpu, self._shaped = scale, dict(cpu or {}), shaped
        for name in self._cpu:
            if name not in scenario.provider_names:
                raise UnknownNameError("provider", name, scenario.provider_names)
        for share in self._cpu.values():
            quota(share)

    def __enter__(self) -> Testbed:
        """Build it; returns when all providers listen."""
        check_host()
        if self._cpu:
            find_controller()
        with ExitStack() as stack:
            guard = self._guard = stack.enter_context(Guard())
            self._quotas = Quotas(guard)
            self.folder = Path(tempfile.mkdtemp(prefix="distredge-testbed-"))
            guard.watch("folder", self.folder)
            self.keys = self.folder / "keys"
            create_keys(self.keys, [REQUESTER, *self.scenario.provider_names])
            self.scenario_file = write_scenario(self.scenario, self.folder, self._scale)
            self._star = stack.enter_context(Star(self._rates()))
            self._launcher = stack.enter_context(self._providers())
            stack.callback(self._release)
            self._stack = stack.pop_all()
        self.addresses = self._launcher.addresses
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the processes and remove everything."""
        self._stack.close()

    # Running plans.

    def run(self, plan_file: Path, options: Sequence[str] = ()) -> dict[str, Any]:
        """Run a plan from the requester's place with `distredge run`, and what that reports.

        Raises `RunError` with its complaint if it fails.
        """
        done = subprocess.run(self.run_command(plan_file, ["--json", *options]), capture_output=True, text=True)
        if done.returncode:
            said = done.stderr.strip().splitlines()
            raise RunError((said[-1] if said else f"exit code {done.returncode}").removeprefix("error: "))
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    def run_command(self, plan_file: Path, options: Sequence[str] = ()) -> list[str]:
        """The command that runs a plan from the requester's place on the test-bed's providers."""
        at = [f"--at={name}={address}" for name, address in self.addresses.items()]
        where = ["--scenario", str(self.scenario_file), "--keys", str(self.keys), *at]
        return self.requester_command(["run", str(plan_file), *where, *options])

    def requester_command(self, arguments: Sequence[str]) -> list[str]:
        """The command that runs `distredge` with these arguments at the requester's place.

        It ends at once with the thread that starts it.
        """
        return [*self.command_at(REQUESTER, [*_DIES_WITH_US, sys.executable, "-m", "distredge", *arguments])]

    def command_at(self, name: str, command: Sequence[str]) -> list[str]:
        """The command that runs another one at a node's place: a provider's or the requester's."""
        return [*self._star.prefix(name), *command]

    def replaying(self) -> Replay:
        """Around a run: rates follow the traces of the scenario's providers that have one, from their beginning."""
        providers = [p for p in self.scenario.providers if p.trace]
        if providers and not self._shaped:
            raise InputError("a trace can be replayed on shaped links only")
        folder, scale = self.scenario.folder, self._scale
        traces = {p.name: read_trace(folder / str(p.trace)).scaled(scale) for p in providers}
        return Replay(traces, self._star.set_rates, {p.name: p.bandwidth_mbps for p in providers})

    # Faults.

    def pid(self, name: str) -> int:
        """Process id of a provider."""
        return self._launcher.process_ids()[name]

    def check(self) -> None:
        """Raise `ProviderLostError` if a provider's process has ended."""
        self._launcher.check()

    def kill(self, name: str) -> None:
        """Kill a provider's process."""
        os.kill(self.pid(name), signal.SIGKILL)

    def restart(self, name: str) -> None:
        """Start a provider anew at its old address; one that is still there is killed first."""
        self._launcher.restart(name)

    def freeze(self, name: str) -> None:
        """Stop a provider's process, which keeps its connections."""
        os.kill(self.pid(name), signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """Let a frozen provider go on."""
        os.kill(self.pid(name), signal.SIGCONT)

    def cut(self, name: str) -> None:
        """Cut a node off: its link is down both ways, and nobody is told."""
        self._star.cut(name)

    def mend(self, name: str) -> None:
        """Join a node again that was cut off."""
        self._star.mend(name)

    def slow(self, name: str, share: float) -> None:
        """Leave a provider's process so much of a core."""
        self._quotas.limit(name, self.pid(name), share)

    def unslow(self, name: str) -> None:
        """Give a provider back what it had at the beginning."""
        if name in self._cpu:
            self.slow(name, self._cpu[name])
        else:
            self._quotas.free(name)

    def set_rates(self, rates: Mapping[str, float]) -> None:
        """Change the rates of links in Mbit/s; they must be shaped."""
        self._star.set_rates(rates)

    # Building.

    def _rates(self) -> dict[str, float | None]:
        nodes = {p.name: p.bandwidth_mbps for p in self.scenario.providers}
        every = {**nodes, REQUESTER: self.scenario.requester.bandwidth_mbps}
        return every if self._shaped else dict.fromkeys(every)

    def _providers(self) -> Launcher:
        names = self.scenario.provider_names
        places = {name: Place(self._star.prefix(name), f"{self._star.host(name)}:0") for name in names}
        return Launcher(names, self.keys, places=places, started=self._started, folder=self.folder)

    def _started(self, name: str, pid: int) -> None:
        """Called with each provider's process, again when it is restarted."""
        self._guard.watch("process", pid)
        if name in self._cpu:
            self._quotas.limit(name, pid, self._cpu[name])

    def _release(self) -> None:
        """Let frozen and slowed providers go on, so that they can end in order."""
        for name, pid in self._launcher.process_ids().items():
            self._quotas.free(name)
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                pass


_DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")
