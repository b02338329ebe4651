"""The rollout in the model registry: tags of the registered model, beside its aliases.

===========================  =================================================================================
``rollout``                  the document (``training.rollout``), written by people
``rollout.ended.ID``         rollout ID has ended: a guard rail of some service says so, and why
``rollout.refused.ID.WHERE`` the service process WHERE cannot serve the challenger of rollout ID, and why
===========================  =================================================================================

A registry has no compare-and-set, and needs none here: a guard rail never writes the document. That a rollout has ended is a
tag of its own, by the rollout's id, so several processes may say it at once, and an end that comes late cannot touch a newer
rollout. All of it is read in one call.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from training.registry import MODEL_NAME
from training.rollout import ALONE, Rollout
from training.tracking import connect

__all__ = ["Look", "RolloutRegistry", "look_of"]

_DOCUMENT: Final = "rollout"
_ENDED: Final = "rollout.ended."
_REFUSED: Final = "rollout.refused."
# What a registry's tag may hold is limited, in older servers to 5,000 characters.
_MOST_TEXT: Final = 1_500


@dataclass(frozen=True)
class Look:
    """The registry at one moment.

    Attributes:
        champion, challenger: versions that have these aliases; None where none has.
        text: the document as it stands; None without one. ended: what is said of its end, None where it has not ended.
        refused: by service process, why it cannot serve the challenger.
    """

    champion: str | None = None
    challenger: str | None = None
    text: str | None = None
    ended: Mapping[str, Any] | None = None
    refused: Mapping[str, str] = field(default_factory=dict)

    def rollout(self) -> Rollout:
        """The document in force: one that has ended is without its challenger.

        Raises:
            ValueError: see ``Rollout.from_text``.
        """
        if self.text is None:
            return ALONE
        found = Rollout.from_text(self.text)
        return found if self.ended is None else found.ended()


class RolloutRegistry:
    """The registry of this deployment's settings. Whatever it raises beside is MLflow's: it does not answer.

    One poll asks it once: what ``champion`` has seen, ``latest`` gives.
    """

    def __init__(self) -> None:
        self._taken: Look | Exception | None = None

    def champion(self) -> str | None:
        """The version that has the alias ``champion``, or None."""
        try:
            self._taken = found = self.look()
        except Exception as error:  # kept for whoever asks next
            self._taken = error
            raise
        return found.champion

    def latest(self) -> Look:
        """What ``champion`` saw, or could not see, since this was asked last; else a look of its own."""
        taken, self._taken = self._taken, None
        if isinstance(taken, Exception):
            raise taken
        return taken or self.look()

    def look(self) -> Look:
        """Everything at once; of a registry without the model, nothing."""
        client = connect()
        from mlflow.exceptions import MlflowException

        try:
            model = client.get_registered_model(MODEL_NAME)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return Look()
            raise
        aliases = {name: str(version) for name, version in model.aliases.items()}
        return look_of(aliases, model.tags)

    def write(self, document: Rollout) -> None:
        """Put the document in place of the one before, and take away what was said of earlier ones."""
        client = connect()
        client.set_registered_model_tag(MODEL_NAME, _DOCUMENT, document.as_text())
        for key in _tags(client):
            said = key.startswith((_ENDED, _REFUSED))
            if said and not key.startswith((f"{_ENDED}{document.id}", f"{_REFUSED}{document.id}.")):
                client.delete_registered_model_tag(MODEL_NAME, key)

    def say_ended(self, rollout_id: str, about: Mapping[str, Any]) -> None:
        """Say that a rollout has ended; saying it again changes nothing, whoever said it first."""
        client, key = connect(), f"{_ENDED}{rollout_id}"
        if key not in _tags(client):
            client.set_registered_model_tag(MODEL_NAME, key, json.dumps(dict(about)))

    def say_refused(self, rollout_id: str, where: str, why: str | None) -> None:
        """Say why the service process ``where`` cannot serve the challenger, or, with None, that it can by now."""
        client, key = connect(), f"{_REFUSED}{rollout_id}.{where}"
        if why is not None:
            client.set_registered_model_tag(MODEL_NAME, key, why[:_MOST_TEXT])
        elif key in _tags(client):
            client.delete_registered_model_tag(MODEL_NAME, key)


def look_of(aliases: Mapping[str, str], tags: Mapping[str, str]) -> Look:
    """What aliases and tags of the registered model say."""
    text = tags.get(_DOCUMENT)
    name = _id_of(text)
    refused = f"{_REFUSED}{name}."
    return Look(
        champion=aliases.get("champion"),
        challenger=aliases.get("challenger"),
        text=text,
        ended=_json(tags.get(f"{_ENDED}{name}")),
        refused={
            key.removeprefix(refused): why for key, why in sorted(tags.items()) if key.startswith(refused)
        },
    )


def _tags(client: Any) -> Mapping[str, str]:
    found: Mapping[str, str] = client.get_registered_model(MODEL_NAME).tags
    return found


def _id_of(text: str | None) -> str:
    found = _json(text) or {}
    return str(found.get("id", ""))


def _json(text: str | None) -> Mapping[str, Any] | None:
    if text is None:
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return {"why": text}
    return found if isinstance(found, dict) else {"why": text}
