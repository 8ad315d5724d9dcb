"""Log lines for programs: one JSON object a line, where the settings say so."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime


class JsonLines(logging.Formatter):
    """Writes a record as one JSON object: time, level, logger, message, and an error's text.

    Examples:
        >>> record = logging.LogRecord("streamrank", 20, "", 0, "%s serves", ("v1",), None)
        >>> json.loads(JsonLines().format(record))["message"]
        'v1 serves'
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def write_json() -> None:
    """Let every log line of this process be JSON from now on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.getLogger().handlers[:] = [handler]
