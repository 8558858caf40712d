#!/bin/sh
# usage: compile-asl.sh INPUT.asl OUTPUT.h NAME CC... : compiles ASL into a C array of bytes called NAME.
set -eu
input=$1 output=$2 name=$3
shift 3
work=$output.d
mkdir -p "$work"
"$@" -E -P -undef -x c "$input" -o "$work/table.asl"
if ! iasl -we -p "$work/table" "$work/table.asl" > "$work/log" 2>&1; then
	cat "$work/log" >&2
	exit 1
fi
{
	echo "/* Made from $(basename "$input") by compile-asl.sh. */"
	echo "static const unsigned char $name[] = {"
	od -An -v -tx1 "$work/table.aml" | sed 's/ \(..\)/0x\1, /g'
	echo "};"
} > "$output"
