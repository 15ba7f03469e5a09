"""Harness programs: run inside the sandbox and report what a candidate did.

Each reads a JSON job from its standard input, so that neither the command line, the environment
nor a file reveals to the candidate where the report goes. It rewrites its JSON report after every
step: a candidate that hangs or ends the process loses only the steps that follow. Expected values
never enter the sandbox; outcomes are compared with them outside.
"""

_COMMON = """
import json, os, sys
job = json.load(sys.stdin)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
sys.path[0] = os.getcwd()
report = {"nonce": job["nonce"]}

def save():
    with open(job["report"] + ".new", "w") as out:
        json.dump(report, out)
    os.replace(job["report"] + ".new", job["report"])

def finish(status):
    sys.stdout.flush()
    sys.stderr.flush()
    # Skip threads and exit handlers of the candidate.
    os._exit(status)
"""

SYNTAX = (
    _COMMON
    + """
import tomllib, warnings
warnings.simplefilter("ignore")
READ = {
    "python": lambda source, path: compile(source, path, "exec", dont_inherit=True),
    "json": lambda source, path: json.loads(source),
    "toml": lambda source, path: tomllib.loads(source),
}
report["results"] = []
for path, language in job["files"]:
    problem = ""
    try:
        with open(path, encoding="utf-8") as text:
            READ[language](text.read(), path)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        problem = f"{type(error).__name__}: {error}"
    report["results"].append([path, problem])
    save()
"""
)

CALLS = (
    _COMMON
    + """
import contextlib, importlib, importlib.util, io, signal, traceback

class TooLong(BaseException):
    pass

def on_alarm(number, frame):
    raise TooLong(f"took longer than {job['seconds']} s")

def truncate(text):
    return text if len(text) <= job["max_characters"] else text[:job["max_characters"]] + "...(cut)"

def describe(error):
    return truncate(f"{type(error).__name__}: {error}")

def load(path):
    parts = path.removesuffix(".py").split("/")
    if len(parts) > 1 and all(part.isidentifier() for part in parts):
        return importlib.import_module(".".join(parts))
    spec = importlib.util.spec_from_file_location(parts[-1], path)
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(parts[-1], module)
    spec.loader.exec_module(module)
    return module

def answer(module, setup, call):
    scope = dict(vars(module))
    printed = io.StringIO()
    result = {"value": None, "printed": "", "error": ""}
    signal.setitimer(signal.ITIMER_REAL, job["seconds"])
    try:
        with contextlib.redirect_stdout(printed):
            for statement in setup:
                exec(statement, scope)
            value = eval(call, scope)
            if value is not None:
                result["value"] = truncate(repr(value))
    except BaseException as error:
        signal.setitimer(signal.ITIMER_REAL, 0)
        result["error"] = describe(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    result["printed"] = truncate(printed.getvalue())
    return result

signal.signal(signal.SIGALRM, on_alarm)
report.update(loaded=False, error="the module ended the program at import", results=[])
save()
try:
    signal.setitimer(signal.ITIMER_REAL, job["load_seconds"])
    module = load(job["main"])
    signal.setitimer(signal.ITIMER_REAL, 0)
    report.update(loaded=True, error="")
except BaseException as error:
    signal.setitimer(signal.ITIMER_REAL, 0)
    report["error"] = describe(error)
    traceback.print_exc()
save()
for setup, call in job["calls"] if report["loaded"] else []:
    report["results"].append(answer(module, setup, call))
    save()
finish(0)
"""
)

TESTS = (
    _COMMON
    + """
import signal
import pytest

def on_alarm(number, frame):
    raise TimeoutError(f"the test took longer than {job['seconds']} s")

class Recorder:
    def pytest_collectreport(self, report):
        if report.failed:
            record("error", report.nodeid, str(report.longrepr))

    def pytest_collection_finish(self, session):
        globals()["report"]["collected"] = [item.nodeid for item in session.items]
        save()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        signal.setitimer(signal.ITIMER_REAL, job["seconds"])
        try:
            return (yield)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            expected = hasattr(report, "wasxfail") and report.outcome == "skipped"
            record("passed" if expected else report.outcome, report.nodeid)

def record(outcome, name, text=""):
    report["results"].append([name, outcome, text[-2000:]])
    save()

signal.signal(signal.SIGALRM, on_alarm)
report.update(collected=[], results=[])
save()
options = ["-q", "--tb=short", "--color=no", "-p", "no:cacheprovider", "-o", "addopts="]
finish(int(pytest.main([*options, "--rootdir=.", *job["tests"]], plugins=[Recorder()])))
"""
)
