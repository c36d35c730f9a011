//go:build (linux || darwin || freebsd || netbsd || dragonfly) && (amd64 || arm64)

package mapped

import (
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// TestMemoriesAreBounded by the mappings that a process may have.
func TestMemoriesAreBounded(t *testing.T) {
	require.Positive(t, mostLive())
	real, before := mostLive, live.Load()
	defer func() { mostLive = real }()
	mostLive = func() int64 { return before + 2 }
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
		require.NoError(t, image.Close())
		require.Equal(t, before, live.Load())
		_, err = New(pageSize, 1<<62, nil, false)
		require.Error(t, err)
		require.Equal(t, before, live.Load())
	}
}

// TestMemoryThatCantBeReplaced isn't touched again: it isn't known whose it is.
func TestMemoryThatCantBeReplaced(t *testing.T) {
	before := live.Load()
	m, err := New(pageSize, 2*pageSize, nil, false)
	require.NoError(t, err)
	real := m.area
	m.area.start = unsafe.Add(real.start, 1) // as the kernel refuses it
	require.True(t, m.Discard())
	require.Nil(t, m.Resize(pageSize))
	m.Unmap()
	require.Equal(t, before+1, live.Load())
	require.Len(t, real.bytes(pageSize), pageSize)
	real.bytes(pageSize)[0] = 1
	real.release()
}

// TestMemoriesAreUsedAgain as they were when they began, unless they have grown, or somebody else may still
// count on their size.
func TestMemoriesAreUsedAgain(t *testing.T) {
	before := live.Load()
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
		require.EqualValues(t, 2, live.Load()-before)
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
	require.NoError(t, image.Close())
	require.Zero(t, spared.Load())
	require.EqualValues(t, 1, live.Load()-before)
	first.Unmap()
	require.Zero(t, spare())
	require.Equal(t, before, live.Load())
}
