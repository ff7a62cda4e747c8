"""`depth-anything predict`: photographs, a video, a camera or a stream -> pictures, numbers, points."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig

from depth_anything_train.command import command
from depth_anything_train.files import require_writable
from depth_anything_train.inference.calibration import read_points
from depth_anything_train.inference.load import load_predictor
from depth_anything_train.inference.outputs import DEFAULT_OUTPUTS, DEFAULT_VIDEO_OUTPUTS, Outputs
from depth_anything_train.inference.photos import predict_photos
from depth_anything_train.inference.sources import Photos, Video, find_source
from depth_anything_train.inference.video import predict_video
from depth_anything_train.inference.video_files import VideoReader
from depth_anything_train.runtime import ProgressBar, UserError, console


@command("predict", again="run it again (skip_existing=true leaves out photographs that are done)")
def main(cfg: DictConfig) -> None:
    """Predict what `cfg.source` means; what cannot be decoded is listed and makes the exit status 1."""
    out = Path(cfg.out)
    source = find_source(cfg.source, out=out)
    names = DEFAULT_OUTPUTS if isinstance(source, Photos) else DEFAULT_VIDEO_OUTPUTS
    outputs = Outputs(
        names=names if cfg.outputs is None else _as_tuple(cfg.outputs),
        colormap=cfg.colormap,
        percentile=cfg.percentile,
        pointcloud=cfg.pointcloud,
        fov_deg=cfg.fov_deg,
        intrinsics=None if cfg.intrinsics is None else _as_tuple(cfg.intrinsics),
        drop_flying=cfg.drop_flying,
    )
    require_writable(out)
    if isinstance(source, Photos):
        problems = _photos(cfg, source, out, outputs)
    else:
        problems = _video(cfg, source, out, outputs)
    for problem in problems:
        console.print(f"skipped {problem}", soft_wrap=True)
    if problems:
        sys.exit(1)


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, ListConfig) else (value,)


def _photos(cfg: DictConfig, photos: Photos, out: Path, outputs: Outputs) -> list[str]:
    if cfg.limit is not None:
        raise UserError("Expected a video for limit, but got photographs; leave it out, or name fewer of them.")
    measured = None if cfg.measured is None else read_points(cfg.measured, photos.files)
    if cfg.skip_existing:
        left = [file for file, (_, name) in zip(photos.files, photos, strict=True) if not outputs.exist(out / name)]
        console.print(f"{len(photos) - len(left)} of {len(photos)} images were predicted before", soft_wrap=True)
        photos = replace(photos, files=left)
    if not photos.files:
        return []
    model = load_predictor(cfg.model, **{key: cfg[key] for key in ("device", "precision", "attention", "compile")})
    settings: dict[str, Any] = {key: cfg[key] for key in ("size", "batch_size", "workers", "fast")}
    problems = []
    with ProgressBar("predict", len(photos)) as bar:
        for problem in predict_photos(model, photos, out, outputs, measured=measured, **settings):
            if problem is not None:
                problems.append(problem)
            bar.advance()
    console.print(f"{len(photos) - len(problems)} of {len(photos)} images predicted: {out}", soft_wrap=True)
    return problems


def _video(cfg: DictConfig, video: Video, out: Path, outputs: Outputs) -> list[str]:
    if cfg.measured is not None:
        raise UserError("Expected photographs for measured points, but got a video; leave measured out.")
    if cfg.skip_existing:
        raise UserError("Expected photographs for skip_existing, but got a video, which is predicted as a whole.")
    if cfg.fast:
        raise UserError("Expected photographs for fast, but got a video; leave it out.")
    with VideoReader(video) as reader:
        model = load_predictor(cfg.model, **{key: cfg[key] for key in ("device", "precision", "attention", "compile")})
        total = min((count for count in (reader.count, cfg.limit) if count is not None), default=None)
        with ProgressBar("predict", total) as bar:
            files = predict_video(
                model,
                reader,
                out / video.name,
                outputs=outputs,
                size=cfg.size,
                temporal=cfg.temporal,
                batch_size=cfg.batch_size,
                limit=cfg.limit,
                on_frame=lambda done, _: bar.advance(done - bar.done),
            )
        console.print(f"{bar.done} frames predicted: {', '.join(map(str, files))}", soft_wrap=True)
        problems = [f"{reader.damaged} parts of {video}: they cannot be decoded."] if reader.damaged else []
        if bar.done != cfg.limit and reader.missing_s:
            problems.append(f"the end of {video}: it breaks off {reader.missing_s:.1f} seconds early.")
        return problems
