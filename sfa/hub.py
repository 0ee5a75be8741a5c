"""Which commit of the hub a name stands for: branches and tags move, and weights are known by what was read."""

import functools
import re
from pathlib import Path
from typing import Any, Literal

SECONDS = 5.0  # that the hub is waited for


@functools.cache
def commit(name: str, revision: str | None = None, kind: Literal["model", "dataset"] = "model") -> str | None:
    """The commit that a repository's ``revision`` is at: as the hub says or, where it is off or cannot be reached, the
    one that was downloaded. ``None``: neither knows. Asked once a process, so that a run stays with one commit.

    Args:
        name: ``owner/name`` on the hub.
        revision: branch, tag or commit; ``None``: the main branch.
        kind: of repository.
    """
    if revision is not None and re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    unreachable: Any = HfHubHTTPError.__bases__  # the HTTP library's own errors, and OSError
    try:
        if not constants.is_offline_mode():
            try:
                return HfApi().repo_info(name, revision=revision, repo_type=kind, timeout=SECONDS).sha
            except unreachable:
                pass  # what was downloaded is used then, as transformers does
        file = "config.json" if kind == "model" else "README.md"
        cached = try_to_load_from_cache(name, file, revision=revision, repo_type=kind)
    except HFValidationError:
        return None  # no name of a repository
    return Path(cached).parent.name if isinstance(cached, str) else None
