"""Zoo models as ONNX files, exported once and kept in the cache."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import warnings
from ast import literal_eval
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from distredge.errors import DependencyError, ModelError, RunError
from distredge.model.onnx_file import model_files, model_sha256
from distredge.model.zoo import ZooEntry, source_files, zoo_entry
from distredge.resources import cache_dir

if TYPE_CHECKING:
    import onnx_ir

OPSET = 18
_RECORD = "export.json"
_SCOPES, _CLASSES = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"


@dataclass(frozen=True)
class ExportedModel:
    """An exported zoo model: its file, the SHA-256 of file and weights, and its task."""

    path: Path
    sha256: str
    task: str


def exported(name: str) -> ExportedModel:
    """The zoo model `name` from the cache, exported first where it is not there whole.

    Raises `UnknownNameError`, `DependencyError` where it must be exported and torch is not installed, and
    `RunError` where the cache cannot be written.
    """
    folder = _folder(name)
    found = _recorded(folder, name)
    if found is None:
        try:
            _export_into(folder, zoo_entry(name))
        except OSError as error:
            raise RunError(f"cannot write the export of '{name}' to '{folder.parent}': {error.strerror}") from error
        found = _recorded(folder, name)
    if found is None:
        raise ModelError(f"the export of '{name}' in '{folder}' is damaged: remove that folder and try again")
    return found


def export(entry: ZooEntry, path: Path) -> Path:
    """Export a model to `path` with its weights in `path` + `.data`; the same bytes each time.

    Nodes are called after the modules that they come from; nothing of this machine is left in the file.
    """
    try:
        import onnx_ir
        import onnxscript  # noqa: F401 (the exporter needs it)
        import torch  # noqa: F401
    except ImportError as error:
        raise DependencyError("exporting a zoo model", str(error.name), "train") from error
    model = _traced(entry)
    _drop_zero_biases(model)
    _rename(model)
    _strip(model)
    onnx_ir.save(model, path, external_data=f"{path.name}.data", size_threshold_bytes=1024)
    return path


def _folder(name: str) -> Path:
    """Where the model is kept: the name tells of the code that made it, so that changed code exports anew."""
    recipe = sha256(b"".join(p.read_bytes() for p in (*source_files(name), Path(__file__)))).hexdigest()
    return cache_dir() / "models" / f"{name}-{recipe[:12]}"


def _recorded(folder: Path, name: str) -> ExportedModel | None:
    """What the folder's record says, so that weights are hashed once; None if a file is not as it was written."""
    record = folder / _RECORD
    if not record.is_file():
        return None
    facts = json.loads(record.read_text())
    files = ((folder / file, size) for file, size in facts["bytes"].items())
    if not all(file.is_file() and file.stat().st_size == size for file, size in files):
        return None
    return ExportedModel(folder / f"{name}.onnx", facts["sha256"], facts["task"])


def _export_into(folder: Path, entry: ZooEntry) -> None:
    """Make the whole folder elsewhere and rename it: nobody sees half of it, and of two who make it one wins."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".part-", ignore_cleanup_errors=True) as part:
        path = export(entry, Path(part) / f"{entry.name}.onnx")
        sizes = {file.name: file.stat().st_size for file in model_files(path)}
        facts = {"sha256": model_sha256(path), "task": entry.task, "bytes": sizes}
        (path.parent / _RECORD).write_text(json.dumps(facts, indent=1))
        if _recorded(folder, entry.name) is None:
            shutil.rmtree(folder, ignore_errors=True)
        try:
            path.parent.rename(folder)
        except OSError:
            if _recorded(folder, entry.name) is None:
                raise
    for other in folder.parent.glob(f"{entry.name}-*"):
        if other != folder:  # made by code of another version
            shutil.rmtree(other, ignore_errors=True)


def _traced(entry: ZooEntry) -> onnx_ir.Model:
    """The exported graph with constants folded and batch norms left as they are."""
    import torch
    from onnxscript import optimizer

    module = entry.build()
    with _quiet():
        program = torch.onnx.export(
            module,
            (torch.zeros(entry.input_shape),),
            dynamo=True,
            optimize=False,  # it would fold batch norms into convolutions
            opset_version=OPSET,
            input_names=["image"],
            verbose=False,
        )
        assert program is not None
        optimizer.fold_constants(program.model)
        optimizer.remove_unused_nodes(program.model)
    return program.model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress, warnings and log lines from the user."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _drop_zero_biases(model: onnx_ir.Model) -> None:
    """Remove the zeros that the exporter gives to convolutions without bias: they are no parameters."""
    for node in model.graph:
        bias = node.inputs[2] if node.op_type == "Conv" and len(node.inputs) > 2 else None
        if bias is not None and bias.const_value is not None and not bias.const_value.numpy().any():
            node.resize_inputs(2)
            if not bias.uses():
                model.graph.initializers.pop(str(bias.name), None)


def _rename(model: onnx_ir.Model) -> None:
    """Call each node after its module (`conv1_1`); what a forward method adds is `module/op` (`conv1_1/relu`)."""
    taken: dict[str, int] = {}
    for node in model.graph:
        name = _module_name(node)
        count = taken[name] = taken.get(name, -1) + 1
        node.name = f"{name}_{count}" if count else name


def _module_name(node: onnx_ir.Node) -> str:
    """The path of the module that the node is; for a function's node that of the module around it and its operator."""
    scopes, classes = (literal_eval(node.metadata_props[key]) for key in (_SCOPES, _CLASSES))
    module = scopes[-2]
    if classes[-2].startswith("torch.nn."):
        return str(module)
    producer = node.inputs[0].producer() if node.inputs[0] is not None else None
    if not module and producer is not None:  # the model's own forward method: named after what it applies to
        module = (producer.name or "").partition("/")[0]
    return f"{module}/{node.op_type.lower()}"


def _strip(model: onnx_ir.Model) -> None:
    """Remove what tells of the machine and the tools: stack traces, documentation, producer."""
    model.producer_name, model.producer_version, model.doc_string = "distredge", None, None
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.graph.doc_string, model.graph.name = None, "main"
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        values.extend(node.outputs)
    for value in values:
        value.metadata_props.clear()
        value.doc_string = None
