"""A web page that shows a run's object from the visitor's camera."""

from .server import Viewer, open_page

__all__ = ["Viewer", "open_page"]
