package mapped

import (
	"bytes"
	"errors"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMemoryGrowsInPlace(t *testing.T) {
	content := make([]byte, 3*pageSize)
	content[5], content[2*pageSize+7] = 1, 2
	image, err := NewImage(content)
	require.NoError(t, err)
	defer image.Close()
	require.EqualValues(t, 3*pageSize, image.size)
	copied := make([]byte, 4*pageSize)
	require.NoError(t, image.CopyTo(copied))
	require.Equal(t, content, copied[:len(content)])

	m, err := New(4*pageSize, 1<<32, image, false)
	if errors.Is(err, ErrUnsupported) {
		t.Skip("SKIPPED:", err)
	}
	require.NoError(t, err)
	b := m.Resize(4 * pageSize)
	require.Equal(t, copied, b)
	b[5], b[4*pageSize-1] = 9, 9
	grown := m.Resize(1000 * pageSize)
	require.Same(t, &b[0], &grown[0])
	require.EqualValues(t, 9, grown[5])
	require.Equal(t, 2, bytes.Count(grown, []byte{9}))
	require.Nil(t, m.Resize(1<<32+1))
	require.Len(t, m.Resize(5), 5)

	other, err := New(3*pageSize, 3*pageSize, image, false)
	require.NoError(t, err)
	require.Equal(t, content, other.Resize(3*pageSize), "the image was written to")
	other.Unmap()
	other.Unmap()

	require.True(t, m.Discard())
	require.False(t, m.Discard())
	require.Contains(t, []byte{0, content[5]}, grown[5])
	require.Zero(t, grown[4*pageSize-1])
	require.Nil(t, m.Resize(1001*pageSize))
	grown[5] = 1
	runtime.KeepAlive(m)

	_, err = New(pageSize, 4*pageSize, image, false)
	require.Error(t, err)
	empty, err := New(0, 0, nil, false)
	require.NoError(t, err)
	require.NotNil(t, empty.Resize(0))
	empty.Unmap()
}

func TestImageLeavesZerosOut(t *testing.T) {
	for _, n := range []int{0, 1, block - 1, block, block + 1, pageSize, pageSize + 1} {
		image, err := NewImage(make([]byte, n))
		require.NoError(t, err)
		require.Zero(t, image.size)
		require.NoError(t, image.CopyTo(nil))
		require.NoError(t, image.Close())
	}
}
