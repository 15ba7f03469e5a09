"""Runs in a guest: a sandbox with a kernel of its own, reached over one duplex byte channel.

A guest (gVisor's sandbox, a micro virtual machine) has no pipes into the server, only one channel:
the standard input and output of a process, or a serial port. The init process is the same as
everywhere (plugins/_shared/stage). The agent is the first process of the guest and carries over
the channel what the init process's five pipes would carry.

Modules marked * travel into the guest as bytecode and import nothing of the product.

    agent_bundle.py  the files that the agent needs in the guest
    agent.py *       PID 1: the channel on one side, the init process's pipes on the other
    pidfd.py *       os.pidfd_open for kernels that lack it
    file_count.py *  counts a run's files for kernels that do not limit their number
    frames.py        the frames on the channel, encoded and decoded
    channel.py       the two descriptors of the channel on the event loop
    run.py           one run: its input, output, limits and end
    results.py       the result of a finished run

The channel carries frames as the report does: a kind (1 byte), a length (4 bytes, big-endian, at
most FRAME_BYTES) and a payload. To the agent:

    J  a piece of the job (see plugins/_shared/stage/job.py); an empty one ends it
    I  a piece of the program's input; an empty one ends it

and from the agent, never empty except the last:

    R  a piece of the init process's report, cut anywhere
    O  a piece of the program's standard output
    E  a piece of its standard error
    Z  the end: nothing follows (empty)

How a backend executes a run:

    run = GuestRun(guest, source, sink, request, watcher)   # see run.py for `guest`
    await run.execute(encode_job(request, own_user=True, watch_memory=...))
    return build_result(run, isolation, failure=...)
"""
