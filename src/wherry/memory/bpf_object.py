"""Loading a BPF object file without libbpf: as much of ELF and BTF as ``bpf/monitor.bpf.c`` makes use of.

Maps are those of ``.maps`` (declared by BTF) and of ``.rodata`` and ``.bss``. A program is a section of its own,
``raw_tracepoint/NAME`` or ``iter/KIND``, without calls to other functions. CO-RE relocations are carried out by the
kernel, which has done that since 5.17. Sources: Documentation/bpf/btf.rst, elf(5), libbpf's ``src/libbpf.c``.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from wherry.kernel import bpf

_PREFIX = "raw_tracepoint/"
_ITERATOR_PREFIX = "iter/"
_SHT_SYMTAB = 2
_PSEUDO_MAP_FD, _PSEUDO_MAP_VALUE = 1, 2  # BPF_PSEUDO_*: what the immediate of a 64-bit load stands for

# enum: kinds of BTF types, include/uapi/linux/btf.h
_INT, _PTR, _ARRAY, _STRUCT, _UNION, _ENUM = 1, 2, 3, 4, 5, 6
_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _FUNC, _FUNC_PROTO, _VAR, _DATASEC = 8, 9, 10, 11, 12, 13, 14, 15
_DECL_TAG, _TYPE_TAG, _ENUM64 = 17, 18, 19
_TAIL_BYTES = {_INT: 4, _ARRAY: 12, _VAR: 4, _DECL_TAG: 4}
_ITEM_BYTES = {_STRUCT: 12, _UNION: 12, _ENUM: 8, _FUNC_PROTO: 8, _DATASEC: 12, _ENUM64: 12}
_TRANSPARENT = frozenset({_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG})


class Section(NamedTuple):
    name: str
    kind: int
    content: bytes
    size: int
    link: int


class Symbol(NamedTuple):
    name: str
    section: int
    value: int
    size: int


class Elf:
    """A relocatable little-endian ELF64 file of one machine's own byte order."""

    def __init__(self, data: bytes) -> None:
        if data[:6] != b"\x7fELF\x02\x01":
            raise ValueError("not a little-endian ELF64 file")
        (table,) = struct.unpack_from("<Q", data, 40)
        count, names = struct.unpack_from("<HH", data, 60)
        headers = [struct.unpack_from("<IIQQQQIIQQ", data, table + 64 * number) for number in range(count)]
        text = data[headers[names][4] :][: headers[names][5]]
        self.sections = [
            Section(
                _string(text, name),
                kind,
                b"" if kind == 8 else data[offset : offset + size],  # SHT_NOBITS: .bss
                size,
                link,
            )
            for name, kind, _flags, _address, offset, size, link, _info, _align, _entry in headers
        ]
        self.by_name = {section.name: section for section in self.sections}
        self.symbols = self._symbols()

    def _symbols(self) -> list[Symbol]:
        table = next((section for section in self.sections if section.kind == _SHT_SYMTAB), None)
        if table is None:
            raise ValueError("no symbol table")
        text = self.sections[table.link].content
        return [
            Symbol(_string(text, name), section, value, size)
            for name, _info, _other, section, value, size in struct.iter_unpack("<IBBHQQ", table.content)
        ]

    def relocations(self, name: str) -> Iterator[tuple[int, Symbol]]:
        """(offset, symbol) of each relocation in the section ``name``."""
        section = self.by_name.get(".rel" + name)
        for offset, info in struct.iter_unpack("<QQ", section.content if section else b""):
            yield offset, self.symbols[info >> 32]


def _string(table: bytes, offset: int) -> str:
    return table[offset : table.index(b"\0", offset)].decode()


class MapType(NamedTuple):
    """One BTF type: ``argument`` is its size or the type it refers to, ``offset`` where it stands."""

    name: str
    kind: int
    length: int
    argument: int
    offset: int


class Btf:
    """The types of an object; type 0 is void."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        header, types_at, types_size, strings_at, strings_size = struct.unpack_from("<IIIII", data, 4)
        self._strings = data[header + strings_at :][:strings_size]
        self.types = [MapType("void", 0, 0, 0, 0)]
        position, end = header + types_at, header + types_at + types_size
        while position < end:
            name, info, argument = struct.unpack_from("<III", data, position)
            kind, length = info >> 24 & 31, info & 0xFFFF
            self.types.append(MapType(self.string(name), kind, length, argument, position))
            position += 12 + _TAIL_BYTES.get(kind, 0) + _ITEM_BYTES.get(kind, 0) * length

    def string(self, offset: int) -> str:
        return _string(self._strings, offset)

    def resolved(self, number: int) -> MapType:
        """Without typedefs and qualifiers."""
        while self.types[number].kind in _TRANSPARENT:
            number = self.types[number].argument
        return self.types[number]

    def items(self, type_: MapType) -> Iterator[tuple[int, int, int]]:
        """Members of a struct as (name, type, bit offset); variables of a section as (type, offset, size)."""
        for number in range(type_.length):
            first, second, third = struct.unpack_from("<III", self.data, type_.offset + 12 + 12 * number)
            yield first, second, third

    def size(self, number: int) -> int:
        type_ = self.resolved(number)
        if type_.kind == _ARRAY:
            element, _, count = struct.unpack_from("<III", self.data, type_.offset + 12)
            return int(self.size(element) * count)
        return 8 if type_.kind == _PTR else type_.argument


def function_number(data: bytes, name: str) -> int:
    """The number of a function's type in BTF as large as the kernel's. Raises LookupError when it is not there."""
    header, types_at, types_size, strings_at, strings_size = struct.unpack_from("<IIIII", data, 4)
    strings = header + strings_at
    wanted = data.find(b"\0" + name.encode() + b"\0", strings, strings + strings_size) + 1 - strings
    position, end, number = header + types_at, header + types_at + types_size, 1
    unpack = struct.Struct("<II").unpack_from
    while position < end:
        at, info = unpack(data, position)
        kind = info >> 24 & 31
        if at == wanted and kind == _FUNC:
            return number
        position += 12 + _TAIL_BYTES.get(kind, 0) + _ITEM_BYTES.get(kind, 0) * (info & 0xFFFF)
        number += 1
    raise LookupError(f"the kernel's BTF has no function {name}")


class MapLayout(NamedTuple):
    """A map as the object declares it."""

    kind: int
    key_size: int
    value_size: int
    entries: int
    flags: int


def _declared_maps(btf: Btf) -> Iterator[tuple[str, MapLayout]]:
    """``.maps`` holds variables whose types tell the attributes: a number N as a pointer to an array of N, a type as a
    pointer to it (bpf_helpers.h: __uint, __type).
    """
    for section in btf.types:
        if section.kind != _DATASEC or section.name != ".maps":
            continue
        for variable, _offset, _size in btf.items(section):
            found = {"key": 0, "value": 0, "map_flags": 0, "max_entries": 0}
            for name, type_, _bit in btf.items(btf.resolved(btf.types[variable].argument)):
                target = btf.types[type_].argument
                field = btf.string(name)
                is_type = field in ("key", "value")
                found[field] = btf.size(target) if is_type else _array_length(btf, target)
            layout = MapLayout(found["type"], found["key"], found["value"], found["max_entries"], found["map_flags"])
            yield btf.types[variable].name, layout


def _array_length(btf: Btf, number: int) -> int:
    (length,) = struct.unpack_from("<I", btf.data, btf.resolved(number).offset + 20)
    return int(length)


class BpfObject:
    """An object file, loaded map by map and program by program; ``close`` lets go of all of it.

    ``maps`` are descriptors by name. Given ``kept`` (maps of the same object, loaded by another process), nothing is
    created.
    """

    def __init__(self, data: bytes) -> None:
        self._elf = Elf(data)
        self._btf = Btf(self._elf.by_name[".BTF"].content)
        self.layouts = dict(_declared_maps(self._btf))
        for name, flags in ((".rodata", bpf.RDONLY_PROG), (".bss", bpf.MMAPABLE)):
            size = self._elf.by_name[name].size
            self.layouts[name] = MapLayout(bpf.ARRAY, 4, size, 1, flags)
        self.maps: dict[str, int] = {}
        self._btf_descriptor = -1

    def load_maps(self, constants: Mapping[str, int | bytes], entries: Mapping[str, int]) -> None:
        """Create the maps that there are not yet, with ``constants`` (numbers of 32 bits, or bytes) in .rodata and
        other sizes for those in ``entries``.
        """
        has_constants = ".rodata" in self.maps
        for name, layout in self.layouts.items():
            if name in self.maps:
                continue
            count = entries.get(name, layout.entries)
            short = name.replace(".", "") if name.startswith(".") else name
            self.maps[name] = bpf.create_map(
                layout.kind, layout.key_size, layout.value_size, count, layout.flags, short
            )
        if self._btf_descriptor < 0:
            self._btf_descriptor = bpf.load_btf(self._finished_btf())
        if has_constants:
            return
        content = bytearray(self._elf.by_name[".rodata"].content)
        for name, value in constants.items():
            packed = value if isinstance(value, bytes) else struct.pack("=I", value)
            content[self.offset_of(name) : self.offset_of(name) + len(packed)] = packed
        bpf.update(self.maps[".rodata"], bytes(4), bytes(content))
        bpf.freeze(self.maps[".rodata"])

    def offset_of(self, variable: str) -> int:
        """Where a variable lies in .rodata or .bss. Raises KeyError."""
        return {symbol.name: symbol.value for symbol in self._elf.symbols}[variable]

    def _finished_btf(self) -> bytes:
        """Compilers leave the sizes and offsets of sections' variables to the linker, and the kernel wants them."""
        data = bytearray(self._btf.data)
        symbols = {symbol.name: symbol for symbol in self._elf.symbols if symbol.name}
        for section in self._btf.types:
            if section.kind != _DATASEC:
                continue
            struct.pack_into("<I", data, section.offset + 8, self._elf.by_name[section.name].size)
            for number, (variable, _offset, size) in enumerate(self._btf.items(section)):
                symbol = symbols[self._btf.types[variable].name]
                at = section.offset + 12 + 12 * number
                struct.pack_into("<II", data, at + 4, symbol.value, symbol.size or size)
        return bytes(data)

    def load_program(self, name: str) -> int:
        """Raises OSError with the verifier's last words."""
        return self._load(self._program(_PREFIX + name), bpf.RAW_TRACEPOINT)

    def load_iterator(self, kind: str, kernel_btf: bytes) -> int:
        """The one program over all of ``kind`` ("task"). Raises LookupError when this kernel cannot iterate over those,
        OSError with the verifier's last words.
        """
        number = function_number(kernel_btf, f"bpf_iter_{kind}")
        return self._load(self._program(_ITERATOR_PREFIX + kind)._replace(iterates=number), bpf.TRACING)

    def _program(self, section: str) -> bpf.Program:
        return bpf.Program(
            name=section.partition("/")[2],
            instructions=self._relocated(section),
            btf=self._btf_descriptor,
            functions=self._extended(section, 8, first=0),
            relocations=self._extended(section, 24),
        )

    @staticmethod
    def _load(program: bpf.Program, kind: int) -> int:
        try:
            return bpf.load_program(program, kind)
        except OSError:
            return bpf.load_program(program, kind, with_log=True)

    def _relocated(self, section: str) -> bytes:
        """The instructions, with descriptors in the place of references to maps."""
        code = bytearray(self._elf.by_name[section].content)
        for offset, symbol in self._elf.relocations(section):
            target = self._elf.sections[symbol.section].name
            kind, descriptor, addend = _PSEUDO_MAP_VALUE, self.maps.get(target, -1), 0
            if target == ".maps":
                kind, descriptor = _PSEUDO_MAP_FD, self.maps[symbol.name]
            else:
                addend = symbol.value + struct.unpack_from("<i", code, offset + 4)[0]
            code[offset + 1] = code[offset + 1] & 15 | kind << 4
            struct.pack_into("<i", code, offset + 4, descriptor)
            struct.pack_into("<i", code, offset + 12, addend)
        return bytes(code)

    def _extended(self, section: str, header_field: int, first: int | None = None) -> bpf.BtfRecords:
        """What .BTF.ext says of a section: function information (field 8) or CO-RE relocations (field 24).

        With ``first`` the first word of the first record, an offset that the linker would have set, becomes that.
        """
        data = self._elf.by_name[".BTF.ext"].content
        (header,) = struct.unpack_from("<I", data, 4)
        offset, length = struct.unpack_from("<II", data, header_field)
        position, end = header + offset, header + offset + length
        if not length:
            return bpf.BtfRecords(b"", 0)
        (size,) = struct.unpack_from("<I", data, position)
        position += 4
        while position < end:
            name, count = struct.unpack_from("<II", data, position)
            position += 8
            if self._btf.string(name) == section:
                records = bytearray(data[position : position + size * count])
                if first is not None:
                    struct.pack_into("<I", records, 0, first)
                return bpf.BtfRecords(bytes(records), size)
            position += size * count
        return bpf.BtfRecords(b"", size)

    def close(self) -> None:
        """Maps and BTF live on as long as a loaded program or another process holds them."""
        descriptors = [*self.maps.values(), self._btf_descriptor]
        self.maps, self._btf_descriptor = {}, -1
        for descriptor in descriptors:
            if descriptor >= 0:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
