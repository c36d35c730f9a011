//go:build cgo

package modcache_test

import "runtime/cgo"

func init() {
	slotPeers = append(slotPeers, slotPeerMaker{"cgo.Handle", func() slotPeer { return slotCgoPeer{} }})
}

type slotCgoPeer struct{}

func (slotCgoPeer) Insert(v *slotBenchObject) uint64 { return uint64(cgo.NewHandle(v)) }
func (slotCgoPeer) Get(h uint64) (*slotBenchObject, bool) {
	v, ok := cgo.Handle(h).Value().(*slotBenchObject)
	return v, ok
}
func (slotCgoPeer) Remove(h uint64) { cgo.Handle(h).Delete() }
