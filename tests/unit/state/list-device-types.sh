#!/bin/sh
# usage: list-device-types.sh OUTPUT SOURCE... : the types of all devices in these sources, as a C initializer.
set -eu
output=$1
shift
{
	echo "/* Made by list-device-types.sh from the sources of vm/devices. */"
	grep -ho '\.type = "[a-z0-9-]*"' "$@" | sed 's/.*\(".*"\)/\1,/' | sort -u
} > "$output"
