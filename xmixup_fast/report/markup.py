"""Pieces of a page, as HTML text: what is given as plain text is escaped."""

from __future__ import annotations

import base64
import io
from html import escape

from PIL import Image


def section(title: str, content: str) -> str:
    """A title, and the content under it, which is HTML."""
    return f"<h2>{escape(title)}</h2>\n{content}"


def image(source: str, css_class: str = "", alt: str = "") -> str:
    """A picture of this data URL."""
    attribute = f' class="{css_class}"' if css_class else ""
    return f'<img{attribute} alt="{escape(alt)}" src="{source}">'


def png(data: bytes) -> str:
    """A data URL of a PNG file."""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def jpeg(picture: Image.Image) -> str:
    """A data URL of a picture, encoded as JPEG."""
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
