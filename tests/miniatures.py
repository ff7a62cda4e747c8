"""The official layouts of raw sets in miniature, written by what the tests of their readers write."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

READERS = Path(__file__).parent / "data_engine" / "ingest"


def writers(name: str) -> ModuleType:
    """The module that tests the reader of a set; by its path, since `data_engine` is the package that it tests."""
    spec = spec_from_file_location(f"miniature_{name}", READERS / f"test_{name}.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_benchmarks(folder: Path) -> dict[str, tuple[str, ...]]:
    """The six sets of V1's table 2: the arguments of `prepare` that make shards of them, by name."""
    kitti = writers("kitti")
    lines = [kitti.eigen_line(kitti.VAL, 7), kitti.eigen_line(kitti.VAL, 0, annotated=False)]
    folder.mkdir()
    (folder / "eigen.txt").write_text("\n".join(lines))
    writers("eth3d").write_scene(folder / "eth3d", "courtyard")
    roots = {
        "kitti": kitti.write_kitti(folder / "kitti"),
        "nyu": writers("nyu").write_labelled(folder / "nyu"),
        "sintel": writers("sintel").write_sintel(folder / "sintel"),
        "ddad": writers("ddad").write_ddad(folder / "ddad"),
        "eth3d": folder / "eth3d",
        "diode": writers("diode").write_diode(folder / "diode"),
    }
    more = {
        "kitti": (f"dataset.file_list={folder / 'eigen.txt'}", "max_bad_share=0.6"),
        "diode": ("dataset.place=indoors",),
    }
    return {name: (f"dataset={name}", f"root={root}", *more.get(name, ())) for name, root in roots.items()}
