"""System-call filters.

bpf.py             assembler for classic BPF
numbers.py         numbers of system calls per architecture
argument_rules.py  calls of sandboxed runs whose arguments decide
run_filter.py      the filter of sandboxed runs
"""
