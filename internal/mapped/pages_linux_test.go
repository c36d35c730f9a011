package mapped

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// mapping returns what wazero reads machine code into.
func mapping(t testing.TB, n int) []byte {
	t.Helper()
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	require.NoError(t, err)
	return b
}

func filled(t testing.TB, n int) (*Pages, []byte) {
	t.Helper()
	p, err := NewPages(n)
	require.NoError(t, err)
	require.Len(t, p.Bytes(), n)
	require.Zero(t, bytes.Count(p.Bytes(), []byte{1}))
	want := make([]byte, n)
	seed := rand.NewChaCha8([32]byte{byte(n)})
	_, _ = seed.Read(want)
	copy(p.Bytes(), want)
	return p, want
}

func requireMoved(t testing.TB, p *Pages, dst []byte) {
	t.Helper()
	moved, err := p.MoveTo(dst)
	require.NoError(t, err)
	require.True(t, moved)
}

func requireStays(t testing.TB, p *Pages, dst []byte, name string) {
	t.Helper()
	moved, err := p.MoveTo(dst)
	require.NoError(t, err)
	require.False(t, moved, name)
}

// TestPagesAreOneMapping: kernels before 6.17 move no other.
func TestImagesHaveNoHolesWhereMemoryIsStrict(t *testing.T) {
	require.True(t, strict([]byte("2\n")))
	require.False(t, strict([]byte("0\n")))
}

func TestPagesAreOneMapping(t *testing.T) {
	for _, n := range []int{1, 2*hugePage - 1, 2 * hugePage, 2*hugePage + 1, 5*hugePage + 12345} {
		p, _ := filled(t, n)
		b, err := os.ReadFile("/proc/self/maps")
		require.NoError(t, err)
		start, found := uintptr(p.start), false
		for line := range strings.Lines(string(b)) {
			var from, to uintptr
			_, err := fmt.Sscanf(line, "%x-%x", &from, &to)
			require.NoError(t, err)
			found = found || from <= start && start+p.size <= to
		}
		require.True(t, found, "%d bytes lie in several:\n%s", n, b)
		p.Free()
	}
}

// TestPagesThatKernelsRefuse stay where they are, and the destination can be used, whether the kernel
// unmapped it or not. From then on none are made.
func TestPagesThatKernelsRefuse(t *testing.T) {
	real := remap
	defer func() { remap = real; refused.Store(false) }()
	for _, n := range []int{5000, 3*hugePage + 5} {
		for name, kernel := range map[string]func(from, to unsafe.Pointer, size uintptr) error{
			"before": func(_, _ unsafe.Pointer, _ uintptr) error { return unix.ENOMEM },
			"after":  func(_, to unsafe.Pointer, size uintptr) error { _ = unix.MunmapPtr(to, size); return unix.EFAULT },
		} {
			refused.Store(false)
			p, want := filled(t, n)
			dst := mapping(t, n)
			remap = kernel
			requireStays(t, p, dst, name)
			copy(dst, p.Bytes())
			require.True(t, bytes.Equal(want, dst), name)
			p.Free()
			require.NoError(t, unix.Mprotect(dst, unix.PROT_READ|unix.PROT_EXEC))
			require.NoError(t, unix.Munmap(dst))
			_, err := NewPages(n)
			require.ErrorIs(t, err, ErrUnsupported)
		}
	}
}

// TestPagesMove into a mapping that is then used as wazero uses it: read, protected, and unmapped
// through the books of package unix.
func TestPagesMove(t *testing.T) {
	for _, n := range []int{1, 4095, 4096, 4097, 1<<20 + 5, 2*hugePage - 1, 2 * hugePage, 2*hugePage + 1, 5*hugePage + 12345, 8 * hugePage} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			p, want := filled(t, n)
			dst := mapping(t, n)
			requireMoved(t, p, dst)
			require.True(t, bytes.Equal(want, dst))
			require.Equal(t, Pages{}, *p, "something is left")
			requireStays(t, p, dst, "twice")
			p.Free()
			require.True(t, bytes.Equal(want, dst))
			dst[0]++ // it can be written to, as before
			require.NoError(t, unix.Mprotect(dst, unix.PROT_READ|unix.PROT_EXEC))
			require.Equal(t, want[0]+1, dst[0])
			require.NoError(t, unix.Munmap(dst))
			require.Error(t, unix.Munmap(dst), "the books still have it")
		})
	}
}

// TestPagesAreCopied where they can't be moved, and are gone then.
func TestPagesAreCopied(t *testing.T) {
	for _, n := range []int{1, 4095, 4096, hugePage, 2*hugePage + 1, 5*hugePage + 12345} {
		p, want := filled(t, n)
		dst := make([]byte, n)
		p.CopyTo(dst)
		require.True(t, bytes.Equal(want, dst))
		require.Equal(t, Pages{}, *p, "something is left")
		p.Free()
	}
}

// TestPagesStayFromWhatIsNoMapping of exactly that length.
func TestPagesStayFromWhatIsNoMapping(t *testing.T) {
	const n = 3 * 4096
	p, want := filled(t, n)
	defer p.Free()
	dst := mapping(t, n)
	longer, gone := mapping(t, n+1), mapping(t, n)
	require.NoError(t, unix.Munmap(gone))
	defer func() { require.NoError(t, unix.Munmap(longer)) }()
	defer func() { require.NoError(t, unix.Munmap(dst)) }()
	other, err := unix.MmapPtr(-1, 0, nil, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	require.NoError(t, err)
	defer func() { require.NoError(t, unix.MunmapPtr(other, n)) }()
	for name, b := range map[string][]byte{
		"nothing": nil, "heap": make([]byte, n), "large heap": make([]byte, 16*n)[:n:n], "longer": longer, "a part": longer[:n:n],
		"its end": longer[1:], "shorter": dst[: n-1 : n-1], "spare capacity": longer[:n], "unmapped": gone,
		"mapped otherwise": (&Pages{start: other, length: n}).Bytes(),
	} {
		requireStays(t, p, b, name)
		require.True(t, bytes.Equal(want, p.Bytes()), name)
	}
	requireMoved(t, p, dst)
	require.True(t, bytes.Equal(want, dst))
}

// TestPagesAreGivenBack, with the addresses that were taken to place them.
func TestPagesAreGivenBack(t *testing.T) {
	const n = 64 << 20
	size := func() (pages int) {
		b, err := os.ReadFile("/proc/self/statm")
		require.NoError(t, err)
		_, err = fmt.Sscan(string(b), &pages)
		require.NoError(t, err)
		return pages
	}
	grown := 0
	for range 10 { // what isn't given back grows in each round; the stacks of new threads, or Go's heap, don't
		before := size()
		for i := range 100 {
			p, err := NewPages(n)
			require.NoError(t, err)
			if i%2 == 0 {
				dst := mapping(t, n)
				requireMoved(t, p, dst)
				require.NoError(t, unix.Munmap(dst))
			}
			p.Free()
			p.Free()
		}
		if grown = size() - before; grown < n/os.Getpagesize() {
			break
		}
	}
	require.Less(t, grown, n/os.Getpagesize(), "of a hundred times as much")
}

// TestPagesMoveAmongOthers has goroutines map, move, collect and unmap at once: nobody's memory
// is taken for somebody else's.
func TestPagesMoveAmongOthers(t *testing.T) {
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 30 {
				n := (g+1)*777_777 + i*4096
				p, want := filled(t, n)
				dst := mapping(t, n)
				if i%3 == 0 {
					p.Free()
				} else if moved, err := p.MoveTo(dst); !moved || err != nil || !bytes.Equal(want, dst) {
					t.Error("not moved")
				}
				if unix.Munmap(dst) != nil {
					t.Error("not unmapped")
				}
				if i%10 == 0 {
					runtime.GC()
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkLoad fills a mapping by way of memory of one's own.
func BenchmarkLoad(b *testing.B) {
	const n = 66<<20 + 777
	src := make([]byte, n)
	for i := range src {
		src[i] = byte(i)
	}
	for _, way := range []string{"pages moved", "heap copied"} {
		b.Run(way, func(b *testing.B) {
			b.SetBytes(n)
			for b.Loop() {
				var got []byte
				var p *Pages
				if way == "pages moved" {
					p, _ = NewPages(n)
					got = p.Bytes()
				} else {
					got = make([]byte, n)
				}
				copy(got, src)
				dst := mapping(b, n)
				if p == nil {
					AdviseHugePages(dst)
					copy(dst, got)
				} else if moved, _ := p.MoveTo(dst); !moved {
					b.Fatal("not moved")
				}
				_ = unix.Munmap(dst)
			}
		})
	}
}
