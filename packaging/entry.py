"""Entry script of the executable."""

from appliance.__main__ import main

main()
