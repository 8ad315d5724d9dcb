"""What can go wrong with the registry.

RegistryError             anything below
├── RegistryUnusable      it cannot be read or written: no rights, a full disk, no network
├── NameRefused           a name that could lead out of the registry
├── VersionMissing        there is no such version
├── VersionTaken          somebody else has just published it
├── VersionRefused        something in it is not as it must be: `file`, `rule`, `value`
├── VersionBarred         it was rejected or barred and must not serve, or nothing else is left to
├── PointerMoved          another version serves than the caller believed
├── LearnerRunning        a learner of this model runs already
└── LockLost              somebody else took the learner's lock over
"""

from __future__ import annotations

from streamrank.errors import StreamRankError


class RegistryError(StreamRankError):
    """Something is wrong with the registry or with a version in it."""


class RegistryUnusable(RegistryError):
    """The registry cannot be read or written."""


class NameRefused(RegistryError):
    """A model's or version's name that could lead out of the registry."""


class VersionMissing(RegistryError):
    """There is no such version."""


class VersionTaken(RegistryError):
    """Somebody else has just published it."""


class VersionBarred(RegistryError):
    """A version was rejected or barred and must not serve, or no other is left that may."""


class PointerMoved(RegistryError):
    """Another version serves than the caller believed: somebody else was faster."""


class LearnerRunning(RegistryError):
    """A learner of this model runs already; the text says which."""


class LockLost(RegistryError):
    """The learner's lock is somebody else's by now: this learner must stop."""


class VersionRefused(RegistryError):
    """Something in a version is not as it must be.

    Args:
        version: Which one.
        file: In which of its files.
        rule: What must be.
        value: What is instead.
    """

    def __init__(self, version: str, file: str, rule: str, value: object) -> None:
        super().__init__(f"version {version or '(new)'}: {file}: {rule}, got {value}")
        self.version, self.file, self.rule, self.value = version, file, rule, value
