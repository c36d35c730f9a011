package wasmbin

// The tables say, for each opcode, how its immediates are spelled. They cover
// what wazero v1.12 knows; everything else is unknown and not rewritten.
const (
	unknown    = '-'
	bare       = '0' // no immediate
	oneInteger = '1' // an index, or the value of a constant
	twoIndexes = '2' // also alignment and offset
	opens      = 'b' // a block type, and a block that an end closes
	closes     = 'e'
	tryTable   = 'c' // a block type and catch clauses, and a block
	brTable    = 't'
	selectType = 's'
	refType    = 'r'
	fourBytes  = 'f'
	eightBytes = 'd'
	vecBytes   = 'v' // 16 of them
	lane       = 'n' // one byte
	memLane    = 'L' // alignment, offset, lane
	oneZero    = 'z' // a reserved byte
	twoZeros   = 'Z'
	indexZero  = 'p'
	misc       = 'M'
	vector     = 'V'
	atomic     = 'A'
)

const opcodes = "" +
	"00bbb0--1-0e11t0" + // 00 unreachable … return
	"121211----00s--c" + // 10 call … try_table
	"1111111-22222222" + // 20 local.get … table.set, loads
	"222222222222222z" + // 30 loads, stores, memory.size
	"z11fd00000000000" + // 40 memory.grow, constants, comparisons
	"0000000000000000" + // 50
	"0000000000000000" + // 60 arithmetic
	"0000000000000000" + // 70
	"0000000000000000" + // 80
	"0000000000000000" + // 90
	"0000000000000000" + // a0 conversions
	"0000000000000000" + // b0
	"00000-----------" + // c0 sign extensions
	"r01-011---------" + // d0 ref.null … br_on_non_null
	"----------------" + // e0
	"------------MVA-" //  f0

// miscOpcodes follow 0xfc.
const miscOpcodes = "00000000" + // 00 saturating conversions
	"p1Zz2121" + // 08 memory.init … table.grow
	"11" //         10 table.size, table.fill

// vectorOpcodes follow 0xfd. The first byte of the opcode decides: those from
// 0x80 on have a second byte, which is always 0x01.
const vectorOpcodes = "" +
	"222222222222vv00" + // 00 loads, store, const, shuffle
	"00000nnnnnnnnnnn" + // 10 splats, lanes
	"nnn0000000000000" + // 20
	"0000000000000000" + // 30
	"0000000000000000" + // 40
	"0000LLLLLLLL2200" + // 50 loads and stores of a lane
	"0000000000000000" + // 60
	"0000000000000000" + // 70
	"0000000000000000" + // 80
	"0000000000-00000" + // 90
	"00-00--00000000-" + // a0
	"-0---000000-0000" + // b0
	"00-00--00000000-" + // c0
	"-0---00000000000" + // d0
	"00-00000000000-0" + // e0
	"0000000000000000" //  f0

// atomicOpcodes follow 0xfe.
const atomicOpcodes = "" +
	"222z------------" + // 00 notify, wait, fence
	"2222222222222222" + // 10 loads, stores, read-modify-write
	"2222222222222222" + // 20
	"2222222222222222" + // 30
	"222222222222222" //  40

const (
	opUnreachable = 0x00
	opEnd         = 0x0b
	opDrop        = 0x1a
	opGlobalGet   = 0x23
	opI32Const    = 0x41
	opI64Const    = 0x42
	opF32Const    = 0x43
	opF64Const    = 0x44
	opI32Add      = 0x6a
	opI32Sub      = 0x6b
	opI32Mul      = 0x6c
	opI64Add      = 0x7c
	opI64Sub      = 0x7d
	opI64Mul      = 0x7e
	opRefNull     = 0xd0
	opRefFunc     = 0xd2
	opVector      = 0xfd
	vecConst      = 0x0c
)
