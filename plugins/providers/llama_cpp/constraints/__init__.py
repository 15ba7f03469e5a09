"""What a completion must look like: output format and tool calls as one grammar."""
