"""The parts of the diffusers engine; only `generator.engines.diffusers` imports them.

Free of torch: `channel`, `faults`, `profile`, `settings`. The others import torch and
diffusers, and are imported by the drawing thread when it first draws.
"""
