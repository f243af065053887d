"""Graphs that other runtimes execute: ONNX."""
