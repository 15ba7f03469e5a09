"""What runs inside a sandbox beside the program, and the server's side of it.

Modules marked * travel into the sandbox as bytecode and import nothing of the product.

    backend.py                base class of the backends: probe, check, run
    validation.py             which run requests are refused before anything starts
    paths.py                  paths in the workspace and glob patterns for them
    job.py                    encodes a job for the init process; each program's environment
    rlimits.py                the resource limits of a program
    bytecode.py               modules as bytecode
    init.py *                 the init process (PID 1): files in, the program, artifacts out
    collect.py *              collects the artifacts
    workspace.py *            loads and saves a workspace that outlives the run
    memory_watch.py *         measures a run's memory where no control group limits it
    report.py                 decodes what the init process reports
    base_copy.py              copies a base into an archive, where there are no overlay mounts
    archive_receiver.py       writes the archive of a workspace to a file
    streams.py                pipes on the event loop; CappedOutput
    prewarm_setup.py          what a sandbox prewarms for its next job
    prewarm_server.py *       the init process's side of a prewarmed process
    prewarmed_interpreter.py *  a Python that waits for its program
    prewarmed_node.cjs        a Node that waits for its program
    landlock_probe.py         proves that Landlock confines programs
"""
