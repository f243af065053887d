"""Torchvision built for CUDA cannot be imported beside torch for processors; Lightning and transformers import what they find.

It stumbles over two operators that its compiled half would have declared. Nothing tested here uses them, so they are declared.
"""

import importlib.util
from pathlib import Path

import torch


def mend():
    """Make ``import torchvision`` work where only its compiled half does not fit this torch."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or torch.version.cuda is not None:
        return
    if "+cu" not in (Path(spec.origin).parent / "version.py").read_text():
        return
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
