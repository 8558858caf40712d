#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes C of the instruction tables (notation: tables.txt).

gen_isa.py OUT_C OUT_H TABLE...: OUT_C gets insn_forms[], the decoder's lines and their index; OUT_H gets enum insn_op. Lines
keep their order, and the files theirs: the first line that matches an encoding wins.
"""

import pathlib
import re
import sys

# Bits of the decoder's state that a line can constrain: name, first bit, width. Mirrors isa_int.h.
STATE = {"pp": (0, 2), "reg": (2, 3), "mod3": (5, 1), "rm": (6, 3), "w": (9, 1), "l": (10, 1), "mode": (11, 2),
         "o": (13, 2), "a": (15, 2), "mode64": (17, 1),
         "b": (18, 1)}
CONSTRAINTS = {
    "np": ("pp", 0), "66": ("pp", 1), "f3": ("pp", 2), "f2": ("pp", 3), "mem": ("mod3", 0), "reg": ("mod3", 1),
    "w0": ("w", 0), "w1": ("w", 1), "l0": ("l", 0), "l1": ("l", 1), "m16": ("mode", 0), "m32": ("mode", 1), "m64": ("mode", 2),
    "nm64": ("mode64", 0), "o16": ("o", 1), "o32": ("o", 2), "o64": ("o", 3), "a16": ("a", 1), "a32": ("a", 2), "a64": ("a", 3),
    "nob": ("b", 0),
}
MAPS = {"": 0, "0f": 1, "0f38": 2, "0f3a": 3}
CODES = "EGMRIJSCDOAZPQNVWUHLBK"
SIZES = {"b": "B", "w": "W", "d": "D", "q": "Q", "v": "V", "y": "Y", "z": "Z", "p": "P", "s": "S", "dq": "DQ", "qq": "QQ",
         "x": "X", "t": "T", "": "NONE"}
MEMORY_SIZES = {"b": "B", "w": "W", "d": "D", "q": "Q", "dq": "DQ", "h": "HALF", "f": "QUARTER", "e": "EIGHTH"}
FIXED = {  # operand: decoder's code, size, register
    "AL": ("FIX_GPR", "B", 0), "CL": ("FIX_GPR", "B", 1), "AX": ("FIX_GPR", "W", 0), "DX": ("FIX_GPR", "W", 2),
    "eAX": ("FIX_GPR", "Z", 0), "rAX": ("FIX_GPR", "V", 0), "1": ("ONE", "B", 0), "ST0": ("FIX_ST", "T", 0), "STi": ("ST", "T", 0),
    "XMM0": ("FIX_VEC", "DQ", 0),
    "ES": ("FIX_SEG", "W", 0), "CS": ("FIX_SEG", "W", 1), "SS": ("FIX_SEG", "W", 2), "DS": ("FIX_SEG", "W", 3),
    "FS": ("FIX_SEG", "W", 4), "GS": ("FIX_SEG", "W", 5),
}
MODRM_CODES = set("EGMRSCDPQNVWU")
FORM_ATTRS = ["lock", "no64", "only64", "def64", "force64", "cpl0", "align", "mxcsr", "branch", "end", "rep", "x87", "sse", "avx",
              "mmx", "prot", "native", "io"]
LINE_ATTRS = ["byte", "anymod", "vsib"]
FLAGS = {"c": 1, "p": 2, "a": 4, "z": 8, "s": 16, "o": 32, "d": 64}


class Bad(Exception):
    pass


def parse_encoding(text):
    """ENCODING: (vex, map, list of opcodes, constraints as {field: value}, uses condition)."""
    words = text.split()
    if not words or words[0] not in ("legacy", "vex"):
        raise Bad("an encoding begins with legacy or vex")
    vex = words.pop(0) == "vex"
    map_name = words.pop(0) if words and words[0] in MAPS else ""
    if not words:
        raise Bad("no opcode")
    found = re.fullmatch(r"([0-9a-f]{2})(\+[rc])?", words.pop(0))
    if not found:
        raise Bad("the opcode is two hex digits, with +r or +c")
    first = int(found[1], 16)
    count = {None: 1, "+r": 8, "+c": 16}[found[2]]
    limits = {}
    for word in words:
        digit = re.fullmatch(r"/([0-7])|rm=([0-7])", word)
        if digit:
            field, value = ("reg", int(digit[1])) if digit[1] else ("rm", int(digit[2]))
        elif word in CONSTRAINTS:
            field, value = CONSTRAINTS[word]
        else:
            raise Bad(f"what is {word}?")
        if field in limits:
            raise Bad(f"{word}: {field} is constrained twice")
        limits[field] = value
    if vex and "pp" not in limits:
        raise Bad("a VEX encoding says np, 66, f3 or f2")
    if vex and not map_name:
        raise Bad("a VEX encoding has a map")
    return vex, MAPS[map_name], [first + n for n in range(count)], limits, found[2] == "+c"


def parse_operand(text):
    """CODE:ACCESS as (code, size, memory size, access, register)."""
    name, _, access = text.partition(":")
    if access not in ("", "r", "w", "rw"):
        raise Bad(f"{text}: access is r, w or rw")
    bits = {"": 1, "r": 1, "w": 2, "rw": 3}[access]
    if name in FIXED:
        code, size, register = FIXED[name]
        return code, size, "NONE", bits, register
    found = re.fullmatch(rf"([{CODES}])([a-z]*)(?:\.([a-z]+))?", name)
    if not found or found[2] not in SIZES or (found[3] and found[3] not in MEMORY_SIZES):
        raise Bad(f"{text} is no operand")
    if not access and found[1] not in "IJAK" and found[2] != "":
        raise Bad(f"{text}: read or written?")
    memory = MEMORY_SIZES[found[3]] if found[3] else "SAME"
    return found[1], SIZES[found[2]], memory, bits, 0


def flag_mask(letters):
    if not letters or any(letter not in FLAGS for letter in letters):
        raise Bad(f"{letters}: flags are letters of c p a z s o d")
    return sum(FLAGS[letter] for letter in set(letters))


def parse_attrs(text):
    out = {"attrs": set(), "line": set(), "feature": "ALWAYS", "fr": 0, "fw": 0, "fu": 0}
    for word in text.split():
        key, has_value, value = word.partition("=")
        if word in FORM_ATTRS:
            out["attrs"].add(word)
        elif word in LINE_ATTRS:
            out["line"].add(word)
        elif has_value and key == "feat":
            out["feature"] = value.upper()
        elif has_value and key in ("fr", "fw", "fu"):
            out[key] = flag_mask(value)
        else:
            raise Bad(f"what is the attribute {word}?")
    return out


def derive_attrs(form):
    """What operands say by themselves: which register state an instruction belongs to, and what a line needs."""
    codes = {code for code, *_ in form["operands"]}
    vector = codes & set("VWUHL") or "FIX_VEC" in codes
    if codes & set("PQN"):
        form["attrs"].add("mmx")
    if vector and form["vex"]:
        form["attrs"].add("avx")
    elif vector:
        form["attrs"].add("sse")
    if codes & {"ST", "FIX_ST"}:
        form["attrs"].add("x87")
    if form["rm_codes"] == {"M"} or "vsib" in form["line"]:
        form["limits"].setdefault("mod3", 0)
    if form["rm_codes"] and form["rm_codes"] <= set("RNU") and "anymod" not in form["line"]:
        form["limits"].setdefault("mod3", 1)
    if {"def64", "force64"} & form["attrs"] and "o" in form["limits"]:
        raise Bad("o16, o32, o64 do not go with def64 and force64")
    if {"no64", "only64"} <= form["attrs"]:
        raise Bad("in no mode at all?")
    if "ST" in codes and codes & MODRM_CODES:
        raise Bad("STi is ModRM.rm")
    first = next((operand for operand in form["operands"] if operand[0] not in "IJK"), None)
    if first and first[1] == "B" and first[0] in ("E", "G", "M", "O", "Z", "FIX_GPR"):
        form["line"].add("byte")


def parse_line(text):
    fields = [field.strip() for field in text.split("|")]
    if len(fields) != 4:
        raise Bad("a form has four fields")
    vex, map_number, opcodes, limits, has_cond = parse_encoding(fields[0])
    words = fields[1].split()
    if not words or len(words) > 2 or not re.fullmatch(r"[A-Z][A-Z0-9_]*", words[0]):
        raise Bad("an operation in upper case, and perhaps a mnemonic")
    operands = [parse_operand(operand) for operand in re.split(r"[,\s]+", fields[2]) if operand]
    if len(operands) > 4:
        raise Bad("more than four operands")
    form = {"vex": vex, "map": map_number, "opcodes": opcodes, "limits": limits, "cond": has_cond, "op": words[0],
            "name": words[1] if len(words) > 1 else words[0].lower(), "operands": operands,
            "where": " ".join(fields[0].split()), **parse_attrs(fields[3])}
    form["rm_codes"] = {code for code, *_ in operands} & set("EMRQNWU")
    derive_attrs(form)
    form["modrm"] = bool({"reg", "mod3", "rm"} & limits.keys() or any(code in MODRM_CODES or code == "ST" for code, *_ in operands))
    return form


def parse_table(path):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            yield parse_line(text)
        except Bad as why:
            sys.exit(f"{path}:{number}: {why}\n{line}")


def state_masks(limits):
    mask = value = 0
    for field, wanted in limits.items():
        first, width = STATE[field]
        mask |= ((1 << width) - 1) << first
        value |= wanted << first
    return mask, value


def c_form(number, form):
    attrs = " | ".join("FORM_" + name.upper() for name in FORM_ATTRS if name in form["attrs"]) or "0"
    written = form["fw"] | form["fu"]
    return (f'\t{{ OP_{form["op"]}, {number}, {attrs}, {form["fr"]:#x}, {written:#x}, {form["fu"]:#x}, '
            f'FEATURE_{form["feature"]}, "{form["name"]}", "{form["where"]}" }},')


def c_operand(operand):
    code, size, memory, access, register = operand
    return f"{{ ISA_{code}, ISA_SIZE_{size}, ISA_SIZE_{size if memory == 'SAME' else memory}, {access}, {register} }}"


def c_line(form):
    mask, value = state_masks(form["limits"])
    flags = ["ISA_LINE_" + name.upper() for name in LINE_ATTRS if name in form["line"]]
    codes = {code for code, *_ in form["operands"]}
    for name, wanted in (("MODRM", form["modrm"]), ("PP", "pp" in form["limits"]), ("COND", form["cond"]),
                         ("VVVV", bool(codes & set("HB")))):
        if wanted:
            flags.append("ISA_LINE_" + name)
    operands = ", ".join(c_operand(operand) for operand in form["operands"]) or "{ 0 }"
    return (f'\t{{ {mask:#x}, {value:#x}, {form["number"]}, {len(form["operands"])}, {" | ".join(flags) or 0}, '
            f'{{ {operands} }} }},')


def write_changed(path, text):
    """An unchanged file keeps its time, so that what includes it is not compiled again."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def make_c(forms, tables):
    groups = {}
    for form in forms:
        for opcode in form["opcodes"]:
            groups.setdefault((form["vex"], form["map"], opcode), []).append(form)
    lines, index = [], []
    for (vex, map_number, opcode), members in sorted(groups.items()):
        modrm = int(any(form["modrm"] for form in members))
        index.append(f"\t[{int(vex)}][{map_number}][{opcode:#04x}] = {{ {len(lines)}, {len(members)}, {modrm} }},")
        lines += [c_line(form) for form in members]
    head = f"/* Made by gen_isa.py of {', '.join(tables)}. */\n"
    return (head + '#include "vm/accel/soft/isa/isa_int.h"\n\n'
            "const struct insn_form insn_forms[] = {\n\t{ OP_NONE, 0, 0, 0, 0, 0, FEATURE_ALWAYS, \"(bad)\", \"\" },\n"
            + "\n".join(c_form(form["number"], form) for form in forms)
            + "\n};\nconst size_t insn_n_forms = sizeof(insn_forms) / sizeof(insn_forms[0]);\n\n"
            "const struct isa_line isa_lines[] = {\n" + "\n".join(lines) + "\n};\n\n"
            "const struct isa_group isa_groups[2][4][256] = {\n" + "\n".join(index) + "\n};\n")


def make_h(forms, tables):
    ops = list(dict.fromkeys(form["op"] for form in forms))
    names = "".join(f"\tOP_{op},\n" for op in ops)
    return (f"/* Made by gen_isa.py of {', '.join(tables)}: every operation that some encoding has. */\n#pragma once\n\n"
            f"enum insn_op {{\n\tOP_NONE,\n{names}\tINSN_N_OPS\n}};\n")


def main():
    out_c, out_h, *tables = (pathlib.Path(name) for name in sys.argv[1:])
    forms = [form for table in tables for form in parse_table(table)]
    for number, form in enumerate(forms, 1):
        form["number"] = number
    names = [table.name for table in tables]
    write_changed(out_c, make_c(forms, names))
    write_changed(out_h, make_h(forms, names))


if __name__ == "__main__":
    main()
