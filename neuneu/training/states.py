"""States that a training on Ray Train left in its folder, where Ray's own list of them is damaged.

Ray writes that list in place at each state: a kill or a full disk within can leave half of it, and
Ray then starts no training in that folder again.
"""

import json
import logging
from typing import Any, Final

from neuneu.core.storage import Folder
from neuneu.training.worker import STATE, load_state

SNAPSHOT: Final = "checkpoint_manager_snapshot.json"
DAMAGED: Final = "checkpoint_manager_snapshot.damaged"
_log = logging.getLogger(__name__)


def unlisted_state(folder: Folder) -> Any:
    """The newest whole state (`ray.train.Checkpoint`) where Ray has no list that it can read.

    None where the list is whole, or where there is no state. A damaged list is set aside.
    """
    from ray.train import Checkpoint

    if folder.exists(SNAPSHOT):
        content = folder.read(SNAPSHOT)
        try:
            json.loads(content)
        except ValueError:
            folder.write(DAMAGED, content)
            folder.delete(SNAPSHOT)
            _log.warning("the list of states is damaged, set aside", extra={"folder": str(folder)})
        else:
            return None
    for name in sorted(folder.files(f"/{STATE}"), reverse=True):  # named by their time
        checkpoint = Checkpoint(str(folder / name.rpartition("/")[0]))
        try:
            load_state(checkpoint)
        except Exception as error:  # noqa: BLE001 - whatever reading half a file comes to
            _log.warning("state is not whole: %s", error, extra={"state": name})
            continue
        return checkpoint
    return None
