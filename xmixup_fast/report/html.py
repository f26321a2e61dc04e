"""Pieces of HTML: sections, and pictures as data URLs."""

from __future__ import annotations

import base64
import io
from html import escape

from PIL import Image


def image(source: str, css_class: str = "", alt: str = "") -> str:
    """An image element; ``source`` is a URL."""
    attribute = f' class="{css_class}"' if css_class else ""
    return f'<img{attribute} alt="{escape(alt)}" src="{source}">'


def png_url(data: bytes) -> str:
    """A data URL of a PNG file."""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def jpeg_url(picture: Image.Image) -> str:
    """A data URL of a picture, encoded as JPEG."""
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def section(title: str, content: str) -> str:
    """A title, which is plain text, and HTML under it."""
    return f"<h2>{escape(title)}</h2>\n{content}"
