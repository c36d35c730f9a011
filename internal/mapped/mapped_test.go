package mapped

import (
	"bytes"
	"errors"
	"os"
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
		image.Close()
	}
}

// TestImageWithoutFile, and with one on a file system: memories begin with the same content. What is on a file system has no
// holes, since reading one takes room that there may not be.
func TestImageWithoutFile(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	full := errors.New("injected")
	dense := bytes.Repeat([]byte{1, 2, 3}, pageSize)
	clear(dense[pageSize : 2*pageSize])
	sparse := make([]byte, 9*pageSize)
	copy(sparse[7*pageSize+9:], "some")
	yes, no := func() bool { return true }, func() bool { return false }
	for name, way := range map[string]struct {
		open  func() (*os.File, error)
		holes func() bool
		files int // of the two images
		err   bool
	}{
		"the platform's": {anonymousFile, holes, 0, false},
		"no file":        {func() (*os.File, error) { return nil, full }, yes, 0, true},
		"not writable":   {func() (*os.File, error) { return os.Open(os.DevNull) }, yes, 0, true},
		"unsupported":    {func() (*os.File, error) { return nil, ErrUnsupported }, yes, 0, false},
		"file system":    {unlinkedFile, no, 1, false},
	} {
		if name == "file system" && runtime.GOOS == "windows" {
			continue // which keeps names of open files
		}
		files := 0
		for _, content := range [][]byte{dense, sparse, {}} {
			image, err := newImage(content, way.open, way.holes)
			require.Equal(t, way.err && len(content) > 0, err != nil, "%s: %v", name, err)
			require.NotNil(t, image)
			if image.file != nil && !way.holes() {
				files++
			}
			if image.file != nil && !way.holes() && runtime.GOOS == "linux" {
				const seekHole = 4
				hole, err := image.file.Seek(0, seekHole)
				require.NoError(t, err)
				require.GreaterOrEqual(t, hole, int64(image.size), "a hole")
			}
			want := make([]byte, 10*pageSize)
			copy(want, content)
			got := make([]byte, len(want))
			require.NoError(t, image.CopyTo(got))
			require.True(t, bytes.Equal(want, got), name)
			require.Equal(t, image.size > 0, image.CopyTo(make([]byte, pageSize)) != nil)
			for range 2 { // maybe in the same place
				m, err := New(10*pageSize, 20*pageSize, image, false)
				if !errors.Is(err, ErrUnsupported) {
					require.NoError(t, err)
					require.True(t, bytes.Equal(want, m.Resize(10*pageSize)), name)
					clear(m.Resize(10 * pageSize))
					m.Unmap()
				}
			}
			image.Close()
		}
		if name != "the platform's" {
			require.Equal(t, way.files, files, name)
		}
	}
}
