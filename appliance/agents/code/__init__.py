"""Reads source code without running it: answers, languages, Python modules, stubs, solutions."""
