"""Resolves names on the hub to commits: branches and tags move, and weights are identified by commit."""

import functools
import os
import re
import sys
from pathlib import Path
from typing import Any, Literal

from sfa.terminal import is_first_rank

TIMEOUT = 5.0  # seconds


@functools.cache
def commit(name: str, revision: str | None = None, kind: Literal["model", "dataset"] = "model") -> str | None:
    """The commit of a repository's ``revision``: from the hub or, if that is offline or unreachable, of the downloaded
    copy; ``None`` if there is neither. Resolved once per process, so that a run uses a single commit.

    Args:
        name: ``owner/name`` on the hub.
        revision: branch, tag or commit; ``None``: the main branch.
        kind: kind of repository.
    """
    if revision is not None and re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    unreachable: Any = HfHubHTTPError.__bases__  # the HTTP library's own errors, and OSError
    try:
        if not constants.is_offline_mode():
            try:
                return HfApi().repo_info(name, revision=revision, repo_type=kind, timeout=TIMEOUT).sha
            except HfHubHTTPError:
                pass  # the hub refuses: fall back to the downloaded copy, as transformers does
            except unreachable:
                go_offline()
        file = "config.json" if kind == "model" else "README.md"
        cached = try_to_load_from_cache(name, file, revision=revision, repo_type=kind)
    except HFValidationError:
        return None  # not a valid repository name
    return Path(cached).parent.name if isinstance(cached, str) else None


def go_offline() -> None:
    """Makes this process and those that it starts use downloaded copies alone, and says so: libraries would try to
    reach the hub again for every file, each for half a minute."""
    from huggingface_hub import constants

    os.environ["HF_HUB_OFFLINE"] = "1"  # read when they are imported
    constants.HF_HUB_OFFLINE = True
    if (datasets := sys.modules.get("datasets")) is not None:
        datasets.config.HF_HUB_OFFLINE = True
    if is_first_rank():
        print("the hub cannot be reached: what was downloaded before is used", file=sys.stderr)
