"""A small world of ray-cast scenes with exact depth, in which the method can be tried in minutes."""

from data_engine.world.domains import DOMAINS, FLAT, Rendering, render, select_domains
from data_engine.world.scene import CLASSES

__all__ = ["CLASSES", "DOMAINS", "FLAT", "Rendering", "render", "select_domains"]
