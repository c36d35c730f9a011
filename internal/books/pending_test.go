package books_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/internal/books"
)

func TestPending(t *testing.T) {
	var p books.Pending
	key := [32]byte{1}
	require.Equal(t, books.Status{}, p.Status())

	first, _ := p.Add(key, 10)
	require.Equal(t, books.Status{Files: 1, Bytes: 10}, p.Status(), "before it has its name")
	require.Empty(t, p.Snapshot(), "there is nothing to sync yet")
	require.Nil(t, p.Visible(key))
	first.Shown.Store(true)
	require.Len(t, p.Snapshot(), 1)

	// One that replaces it, and one that doesn't come to be.
	_, undo := p.Add(key, 20)
	undo()
	require.EqualValues(t, 10, p.Status().Bytes)
	require.Len(t, p.Snapshot(), 1)
	old := p.Snapshot()[key]
	second, undo := p.Add(key, 30)
	second.Shown.Store(true)
	p.Drop(key, old)
	old.Rewrite.Store(true)
	require.EqualValues(t, 30, p.Status().Bytes, "the sync was that of the file before")
	require.False(t, p.Snapshot()[key].Rewrite.Load())

	second.Rewrite.Store(true)
	require.True(t, p.Snapshot()[key].Rewrite.Load())
	failure := errors.New("failure")
	p.Flushed(noon, failure)
	require.Equal(t, books.Status{Files: 1, Bytes: 30, LastError: failure}, p.Status())
	p.Drop(key, p.Visible(key))
	p.Drop(key, nil)
	p.Flushed(noon, nil)
	require.Equal(t, books.Status{LastFlush: noon}, p.Status())
	undo()
	require.Zero(t, p.Status().Files)
}
