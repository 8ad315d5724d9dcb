"""The root of what is expected to go wrong.

StreamRankError
├── settings.SettingsError
└── one family per edge: kafka, store, onnxruntime, registry, log
"""


class StreamRankError(Exception):
    """Something outside is not as it must be; the text says what, and what to do."""
