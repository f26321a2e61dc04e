"""The Hugging Face Hub: a missing network is known within seconds, and retries are one line."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from ..runtime.threads import within

CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 8.0
"""How long a connection, and the whole answer, may take; the name service obeys the second alone."""


@contextmanager
def reachable_hub() -> Iterator[str]:
    """A context for downloads from the Hub, with why the Hub cannot be reached; the text is empty where it can.

    huggingface_hub tries each request six times, over half a minute, and tells each. Here the Hub is asked once,
    before. Where it does not answer, huggingface_hub is offline within the context: what its cache holds is taken from
    there, and the rest fails at once. Where it answers, huggingface_hub may retry, and tells that in one line.
    """
    from huggingface_hub import constants

    logger, first_line = logging.getLogger("huggingface_hub.utils._http"), _FirstLine()
    was_offline = constants.HF_HUB_OFFLINE
    reason = "" if was_offline else _unreachable(constants.ENDPOINT)
    constants.HF_HUB_OFFLINE = was_offline or bool(reason)
    logger.addFilter(first_line)
    try:
        yield reason
    finally:
        constants.HF_HUB_OFFLINE = was_offline
        logger.removeFilter(first_line)


def _unreachable(endpoint: str) -> str:
    """Why no server answers at an endpoint; empty where one does, whatever it answers."""
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

    try:  # in a thread, as no timeout holds for the name service
        within(ANSWER_SECONDS, lambda: get_session().head(endpoint, timeout=CONNECT_SECONDS))
    except Exception as error:  # of requests or httpx, as the version of huggingface_hub has it
        return f"{endpoint} cannot be reached: {(str(error).splitlines() or [type(error).__name__])[0]}"
    return ""


class _FirstLine(logging.Filter):
    """Lets one record pass."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = False

    def filter(self, record: logging.LogRecord) -> bool:
        passed, self.passed = self.passed, True
        return not passed
