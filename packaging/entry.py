"""What the executable runs."""

from appliance.__main__ import main

main()
