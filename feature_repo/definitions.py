"""What `feast apply` registers: the entities, views and the service that the settings mean.

A view is `None`, and not registered, where the settings name no field for it.
"""

from pathlib import Path

from streamrank.edges import repository
from streamrank.edges.views import define

_settings, _root = repository.located()
repository.check_project(_settings, Path(__file__).with_name("feature_store.yaml"))
repository.prepare(_settings, _root)
_defined = define(_settings, _root)

item = _defined.entities["item"]
user = _defined.entities["user"]
catalogue = _defined.entities["catalogue"]

item_windows = _defined.views["item_windows"]
user_windows = _defined.views["user_windows"]
item_next = _defined.views["item_next"]
item_fields = _defined.views.get("item_fields")
user_fields = _defined.views.get("user_fields")
popular = _defined.views["popular"]

model = _defined.service
