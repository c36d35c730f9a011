package wasmbin

// The tables say, for each opcode, how its immediates are spelled. They cover
// what wazero v1.12 knows; everything else is unknown and not rewritten.
const (
	unknown    = '-'
	bare       = '.' // no immediate
	opens      = 'b' // a block type, and a block that an end closes
	closes     = 'e'
	tryTable   = 'c' // a block type and catch clauses, and a block
	oneIndex   = 'u'
	twoIndexes = 'U' // also alignment and offset
	brTable    = 't'
	selectType = 's'
	refType    = 'r'
	int32Const = 'i'
	int64Const = 'l'
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
	"..bbb.--u-.euut." + // 00 unreachable … return
	"uUuUuu----..s--c" + // 10 call … try_table
	"uuuuuuu-UUUUUUUU" + // 20 local.get … table.set, loads
	"UUUUUUUUUUUUUUUz" + // 30 loads, stores, memory.size
	"zilfd..........." + // 40 memory.grow, constants, comparisons
	"................" + // 50
	"................" + // 60 arithmetic
	"................" + // 70
	"................" + // 80
	"................" + // 90
	"................" + // a0 conversions
	"................" + // b0
	".....-----------" + // c0 sign extensions
	"r.u-.uu---------" + // d0 ref.null … br_on_non_null
	"----------------" + // e0
	"------------MVA-" //  f0

// miscOpcodes follow 0xfc.
const miscOpcodes = "........" + // 00 saturating conversions
	"puZzUuUu" + // 08 memory.init … table.grow
	"uu" //         10 table.size, table.fill

// vectorOpcodes follow 0xfd. The first byte of the opcode decides: those from
// 0x80 on have a second byte, which is always 0x01.
const vectorOpcodes = "" +
	"UUUUUUUUUUUUvv.." + // 00 loads, store, const, shuffle
	".....nnnnnnnnnnn" + // 10 splats, lanes
	"nnn............." + // 20
	"................" + // 30
	"................" + // 40
	"....LLLLLLLLUU.." + // 50 loads and stores of a lane
	"................" + // 60
	"................" + // 70
	"................" + // 80
	"..........-....." + // 90
	"..-..--........-" + // a0
	"-.---......-...." + // b0
	"..-..--........-" + // c0
	"-.---..........." + // d0
	"..-...........-." + // e0
	"................" //  f0

// atomicOpcodes follow 0xfe.
const atomicOpcodes = "" +
	"UUUz------------" + // 00 notify, wait, fence
	"UUUUUUUUUUUUUUUU" + // 10 loads, stores, read-modify-write
	"UUUUUUUUUUUUUUUU" + // 20
	"UUUUUUUUUUUUUUUU" + // 30
	"UUUUUUUUUUUUUUU" //  40

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
