//go:build cgo

package slots

import "runtime/cgo"

func init() {
	peers = append(peers, peerMaker{"cgo.Handle", func() peer { return cgoPeer{} }})
}

type cgoPeer struct{}

func (cgoPeer) Insert(v *object) uint64 { return uint64(cgo.NewHandle(v)) }
func (cgoPeer) Get(h uint64) (*object, bool) {
	v, ok := cgo.Handle(h).Value().(*object)
	return v, ok
}
func (cgoPeer) Remove(h uint64) { cgo.Handle(h).Delete() }
