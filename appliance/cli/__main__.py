"""`python -m appliance.cli` is `postgate`."""

from appliance.cli import main

main(prog_name="postgate")
