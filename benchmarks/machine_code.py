"""What the assembler made of asynchronous products: whether their registers stay as they are until they were read.

A Hopper product may take its left side from registers, and runs while the program goes on. ptxas before 13.3 has been
seen to put something else into them in between (triton-lang/triton#9433): wrong numbers, now and then. Of that nothing
shows in PTX, but all in the machine code. Newer assemblers write them early too, where they know that a product has
read them; a program in which nobody does is right with all of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?P<guard>@!?U?P\w+\s+)?(?P<name>\S+)\s*(?P<operands>[^;]*);")
LABEL = re.compile(r"^(\.L_x_\d+):")
REGISTER = re.compile(r"R(\d+)(?:\.\w+)*")
TARGET = re.compile(r"\.L_x_\d+")
# 64 rows by 16 halves, or 8 floats, over 128 threads.
LEFT_REGISTERS = 4


@dataclass(frozen=True)
class Instruction:
    """One instruction: whether it is always executed, its name and its operands."""

    always: bool
    name: str
    operands: tuple[str, ...]

    @property
    def left(self) -> set[int]:
        """The registers of a product's left side; none where that lies in shared memory."""
        found = REGISTER.fullmatch(self.operands[1]) if self.name.startswith("HGMMA") else None
        return set(range(int(found[1]), int(found[1]) + LEFT_REGISTERS)) if found else set()

    @property
    def written(self) -> set[int]:
        """The registers that it writes."""
        # What else it writes is a predicate, and stands before them.
        operands = self.operands[1:] if re.match(r"U?P", self.operands[0]) else self.operands
        found = REGISTER.fullmatch(operands[0]) if operands else None
        if found is None or self.name.startswith(("BAR", "WARPSYNC")):
            return set()
        return set(range(int(found[1]), int(found[1]) + self._width))

    @property
    def _width(self) -> int:
        if rows := re.match(r"HGMMA\.64x(\d+)x", self.name):
            return int(rows[1]) // 2
        if self.name.startswith("LDSM"):
            return int(self.name[-1])
        return 4 if ".128" in self.name else 2 if re.search(r"\.64|WIDE|^CS2R$", self.name) else 1

    @property
    def waits(self) -> bool:
        """Whether every product has ended after it."""
        return self.name == "WARPGROUP.DEPBAR.LE" and self.operands == ("gsb0", "0x0")


def overwritten(listing: str) -> list[str]:
    """Return a line for each product of which a register of the left side is written before anything waits for it.

    Args:
        listing: what `nvdisasm -c` prints of a cubin for compute capability 9.0.
    """
    program, places = _parse(listing)
    found = []
    for start, product in enumerate(program):
        todo, seen = [start + 1] if product.left else [], set()
        while todo:
            i = todo.pop()
            if i in seen or i >= len(program) or program[i].waits:
                continue
            seen.add(i)
            after = program[i]
            if after.written & product.left:
                found.append(f"{product.name} {', '.join(product.operands)}: {after.name} {', '.join(after.operands)}")
                break
            if after.name.startswith("BRA"):
                todo.append(places[TARGET.findall(after.operands[-1])[0]])
            if not (after.always and after.name.startswith(("BRA", "EXIT"))):
                todo.append(i + 1)
    return found


def _parse(listing: str) -> tuple[list[Instruction], dict[str, int]]:
    """Return the instructions, and before which of them each label stands."""
    program: list[Instruction] = []
    places: dict[str, int] = {}
    for line in listing.splitlines():
        if label := LABEL.match(line):
            places[label[1]] = len(program)
        elif match := INSTRUCTION.search(line):
            operands = tuple(operand.strip() for operand in match["operands"].split(","))
            program.append(Instruction(match["guard"] is None, match["name"], operands))
    return program, places
