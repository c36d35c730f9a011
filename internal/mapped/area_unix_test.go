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
	image, err := NewImage([]byte{1})
	require.NoError(t, err)
	defer image.Close()
	for range 3 {
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
