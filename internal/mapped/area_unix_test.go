//go:build (linux || darwin || freebsd || netbsd || dragonfly) && (amd64 || arm64)

package mapped

import (
	"os"
	"runtime"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// areas returns how many are mapped.
func areas() int64 { return mappings.taken.Load() / perArea }

// lower has the process have less of something, so that there may be n more.
func lower(t *testing.T, s *share, n int64) {
	require.Positive(t, s.limit())
	limit, used := s.limit, s.used
	most := 2*(s.taken.Load()+n) + 1
	s.limit, s.used = func() int64 { return most }, nil
	t.Cleanup(func() { s.limit, s.used = limit, used })
}

// TestMemoriesLeaveAddressesToOthers: half of those that are left is ours, and not half of all.
func TestMemoriesLeaveAddressesToOthers(t *testing.T) {
	if runtime.GOOS == "linux" {
		require.Greater(t, addressSpace(), int64(1<<20), "of this process")
	}
	used := int64(70)
	s := share{what: "bytes", limit: func() int64 { return 100 }, used: func() int64 { return used }}
	require.NoError(t, s.take(15))
	used += 15
	require.ErrorContains(t, s.take(1), "15 bytes are taken, and 1 more would leave too few to the program, of 30")
	s.give(1)
	used--
	require.NoError(t, s.take(1))
	s.limit = func() int64 { return noLimit }
	require.NoError(t, s.take(1000))
}

// TestMemoriesAreBounded by the mappings and the addresses that a process may have.
func TestMemoriesAreBounded(t *testing.T) {
	before, addressesBefore := areas(), addresses.taken.Load()
	for name, bound := range map[string]func(t *testing.T){
		"mappings":  func(t *testing.T) { lower(t, &mappings, 2*perArea) },
		"addresses": func(t *testing.T) { lower(t, &addresses, 4*pageSize) },
	} {
		t.Run(name, func(t *testing.T) {
			bound(t)
			requireTwo(t, before)
			require.Equal(t, addressesBefore, addresses.taken.Load())
		})
	}
}

// requireTwo makes two memories of two pages each, which is as many as there may be.
func requireTwo(t *testing.T, before int64) {
	for range 3 {
		image, err := NewImage([]byte{1})
		require.NoError(t, err)
		a, err := New(pageSize, 2*pageSize, nil, false)
		require.NoError(t, err)
		b, err := New(pageSize, 2*pageSize, image, false)
		require.NoError(t, err)
		for range 3 {
			_, err = New(pageSize, 2*pageSize, nil, false)
			require.ErrorContains(t, err, "too few")
		}
		b.Discard()
		_, err = New(pageSize, 2*pageSize, nil, false)
		require.Error(t, err, "it has its mappings still")
		a.Leak()
		a.Unmap()
		a.Unmap()
		b.Unmap()
		image.Close()
		require.Equal(t, before, areas())
		_, err = New(pageSize, 1<<62, nil, false)
		require.Error(t, err)
		require.Equal(t, before, areas())
	}
}

// TestImagesLeaveFilesToOthers: beyond half of those that the process may open, memories are copies.
func TestImagesLeaveFilesToOthers(t *testing.T) {
	lower(t, &openFiles, 1)
	before := openFiles.taken.Load()
	for range 3 {
		shared, err := NewImage([]byte{1})
		require.NoError(t, err)
		copied, err := NewImage([]byte{1})
		require.ErrorContains(t, err, "open files")
		m, err := New(pageSize, pageSize, copied, false)
		require.NoError(t, err)
		require.EqualValues(t, 1, m.Resize(pageSize)[0])
		m.Unmap()
		copied.Close()
		shared.Close()
		shared.Close()
		require.Equal(t, before, openFiles.taken.Load())
	}
}

// TestImageThatCantBeMapped costs one area, which may be anybody's by then, and not one for each memory.
func TestImageThatCantBeMapped(t *testing.T) {
	image, err := NewImage([]byte{1})
	require.NoError(t, err)
	defer image.Close()
	none, end, err := os.Pipe()
	require.NoError(t, err)
	defer none.Close()
	defer end.Close()
	before, file := areas(), image.file
	image.file = none
	_, err = New(pageSize, 2*pageSize, image, false)
	require.Error(t, err)
	image.file = file
	for range 3 {
		m, err := New(pageSize, 2*pageSize, image, false)
		require.NoError(t, err)
		require.EqualValues(t, 1, m.Resize(pageSize)[0])
		require.Equal(t, before+2, areas())
		m.Resize(pageSize)[0] = 2
		m.Unmap()
	}
	require.Equal(t, before+1, areas())
}

// TestMemoryThatCantBeReplaced isn't touched again: it isn't known whose it is.
func TestMemoryThatCantBeReplaced(t *testing.T) {
	before := areas()
	m, err := New(pageSize, 2*pageSize, nil, false)
	require.NoError(t, err)
	real := m.area
	m.area.start = unsafe.Add(real.start, 1) // as the kernel refuses it
	require.True(t, m.Discard())
	require.Nil(t, m.Resize(pageSize))
	m.Unmap()
	require.Equal(t, before+1, areas())
	require.Len(t, real.bytes(pageSize), pageSize)
	real.bytes(pageSize)[0] = 1
	real.release()
}

// TestMemoriesAreUsedAgain as they were when they began, unless they have grown, or somebody else may still
// count on their size.
func TestMemoriesAreUsedAgain(t *testing.T) {
	before := areas()
	content := make([]byte, pageSize)
	content[5] = 1
	image, err := NewImage(content)
	require.NoError(t, err)
	open := func(whole bool) (*Memory, []byte) {
		m, err := New(2*pageSize, 4*pageSize, image, whole)
		require.NoError(t, err)
		b := m.Resize(2 * pageSize)
		require.Equal(t, content, b[:pageSize])
		require.Equal(t, make([]byte, pageSize), b[pageSize:])
		return m, b
	}
	fill := func(b []byte) {
		for i := range b {
			b[i] = 9
		}
	}
	spare := func() int { return len(image.spares.areas) }
	first, _ := open(false)
	for range 10 {
		m, b := open(false)
		fill(b)
		m.Discard()
		fill(b) // a guest that still runs
		m.Unmap()
		m.Unmap()
		require.LessOrEqual(t, spare(), 1)
	}
	if (area{}).restore(0) { // as on Linux
		require.Equal(t, 1, spare())
		require.EqualValues(t, 2, areas()-before)
	}
	m, _ := open(false)
	require.Zero(t, spare())
	fill(m.Resize(3 * pageSize))
	m.Unmap()
	require.Zero(t, spare(), "it has grown")
	m, _ = open(true)
	m.Unmap()
	require.Zero(t, spare(), "it is whole")
	m, _ = open(false)
	m.Unmap()
	other, err := New(pageSize, 4*pageSize, image, false)
	require.NoError(t, err)
	require.Len(t, other.Resize(pageSize), pageSize)
	require.Nil(t, other.Resize(5*pageSize))
	other.Unmap()

	// There are so many, and none when the image ends.
	var many []*Memory
	for range mostSpare + 5 {
		m, _ := open(false)
		many = append(many, m)
	}
	for _, m := range many {
		m.Unmap()
	}
	require.LessOrEqual(t, spare(), mostSpare)
	image.Close()
	require.Zero(t, spared.Load())
	require.EqualValues(t, 1, areas()-before)
	first.Unmap()
	require.Zero(t, spare())
	require.Equal(t, before, areas())
}
