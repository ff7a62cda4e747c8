"""Imports point one way; the layers are those of CONTRIBUTING.md."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from networks import build

from depth_anything_train.models.checkpoints import save_model

ROOT = Path(__file__).parents[1]
LAYERS = [
    {"types", "runtime"},
    {"files", "walking", "parallel", "memory", "signals", "internals", "building", "overrides"},
    {"values", "locks"},
    {"ops", "pages", "composition", "devices", "run_folder"},
    {"command", "command_help", "data", "models", "losses", "metrics", "optim"},
    {"tasks", "trainer"},
    {"callbacks"},
    {"inference", "train", "evaluate", "evaluation", "export", "report", "pipeline", "plan", "app"},
    {"ablate", "doctor"},
    {"cli"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
# Within the layer of commands, some build on inference, and some on the parts of evaluation.
ALLOWED = {(name, "inference") for name in ("evaluation", "export", "report", "plan", "app")}
ALLOWED |= {("evaluate", "evaluation"), ("train", "evaluation"), ("report", "evaluation")}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import; name the package"
            yield node.module.split(".")


def violations(path, package):
    here = path.relative_to(package).parts[0].removesuffix(".py")
    for module in imports(path):
        if module[0] == "data_engine":
            yield f"{path.name} imports {'.'.join(module)}: the library never imports the engine"
        if module[0] == package.name and len(module) > 1 and here != "__init__":
            target = module[1]
            if target != here and RANK[target] >= RANK[here] and (here, target) not in ALLOWED:
                yield f"{here} imports {'.'.join(module)}"


@pytest.mark.parametrize("path", sorted((ROOT / "depth_anything_train").rglob("*.py")), ids=lambda p: p.stem)
def test_imports_point_down(path):
    assert list(violations(path, ROOT / "depth_anything_train")) == []


def test_a_planted_violation_is_found(tmp_path):
    package = tmp_path / "depth_anything_train"
    (package / "ops").mkdir(parents=True)
    planted = package / "ops" / "planted.py"
    planted.write_text("def f():\n    from depth_anything_train.tasks import base\n    import data_engine.writer\n")
    assert len(list(violations(planted, package))) == 2


def test_what_does_not_train_starts_and_predicts_without_the_libraries_of_training(tmp_path):
    # They are most of the seconds that a command takes to start, and bring half of the machine's libraries along.
    names = [
        "ablate",
        "evaluate",
        "evaluation.segment_command",
        "report.command",
        "inference.predict",
        "export.command",
        "app.serve",
    ]
    modules = [f"depth_anything_train.{name}" for name in names]
    modules += ["data_engine.verify", "data_engine.labelling.teacher"]
    code = f"""
import sys, numpy
import {", ".join(modules)}
model = depth_anything_train.DepthAnything.from_pretrained({str(save_model(tmp_path, build()))!r}, device="cpu")
model.predict(numpy.zeros((28, 42, 3), dtype="uint8"))
print(*{{"lightning_fabric", "timm", "torch._dynamo", "torchvision", "transformers", "wandb"}} & {{*sys.modules}})
"""
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.split() == []


def test_engine__what_needs_no_model_starts_without_torch():
    # Every worker process of these imports them; torch is four of their five seconds, and 270 MB in each.
    names = ["label", "prepare", "verify", "leaks.command", "ingest.video"]
    names += [f"engines.{name}" for name in ("local", "array", "ray")]
    code = f"import sys, {', '.join(f'data_engine.{name}' for name in names)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
