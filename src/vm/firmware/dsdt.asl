/*
 * The fixed part of the machine as its operating system sees it: PCI root, legacy devices, power-off, events. What varies
 * is in an SSDT that ssdt.c writes: the integers below, and the processors. (ACPI 6.5; PCI Firmware Specification 3.2.)
 *
 * This file goes through the C preprocessor. Its constants are those of vm/bus/platform.h and vm/bus/pci.h.
 */
DefinitionBlock ("", "DSDT", 2, "VIREO", "VIREOVM", 1)
{
	External (\VDEV, IntObj) // optional devices that are there: FW_ACPI_DEV_* of acpi_int.h
	External (\VP6B, IntObj) // 64-bit PCI window: first and last address; both 0 without one
	External (\VP6E, IntObj)
	External (\VGIA, IntObj) // where the generation identifier lies

	Name (\_S5, Package () {5, 0, 0, 0})

	Scope (\_SB)
	{
		Device (PCI0)
		{
			Name (_HID, EisaId ("PNP0A08"))
			Name (_CID, EisaId ("PNP0A03"))
			Name (_SEG, 0)
			Name (_BBN, 0)
			Name (_UID, 0)

			Name (WIN, ResourceTemplate ()
			{
				WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode, 0, 0, 0, 0, 1)
				IO (Decode16, 0x0CF8, 0x0CF8, 1, 8)
				WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange,
					0, 0x0000, 0x0CF7, 0, 0x0CF8)
				WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange,
					0, 0x0D00, 0xFFFF, 0, 0xF300)
				DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,
					0, 0xC0000000, 0xDFFFFFFF, 0, 0x20000000)
			})
			Name (W64, ResourceTemplate ()
			{
				QWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,
					0, 0x100000000, 0x1FFFFFFFF, 0, 0x100000000, , , WIN6)
			})
			Method (_CRS, 0, Serialized)
			{
				If (VP6E == 0)
				{
					Return (WIN)
				}
				CreateQWordField (W64, ^WIN6._MIN, MINI)
				CreateQWordField (W64, ^WIN6._MAX, MAXI)
				CreateQWordField (W64, ^WIN6._LEN, LENG)
				MINI = VP6B
				MAXI = VP6E
				LENG = VP6E - VP6B + 1
				Return (ConcatenateResTemplate (WIN, W64))
			}

			// PCI Firmware Specification, section 4.5.1: native hot-plug, power events, error reporting and
			// capability control are the operating system's; there is no SHPC to control.
			Method (_OSC, 4)
			{
				CreateDWordField (Arg3, 0, CDW1)
				If (Arg0 == ToUUID ("33DB4D5B-1FF7-401C-9657-7441C03DD766"))
				{
					CreateDWordField (Arg3, 8, CDW3)
					Local0 = CDW3 & 0x1D
					If (Arg1 != 1)
					{
						CDW1 |= 0x08 // unknown revision
					}
					If (CDW3 != Local0)
					{
						CDW1 |= 0x10 // something was refused
					}
					CDW3 = Local0
				}
				Else
				{
					CDW1 |= 0x04 // unknown UUID
				}
				Return (Arg3)
			}

			// Slot s, pin p (INTA# is 0) raises GSI 16 + (s + p) % 8.
#define SLOT(s, a, b, c, d)		     \
	Package () {0x##s##FFFF, 0, 0, a},   \
		Package () {0x##s##FFFF, 1, 0, b}, \
		Package () {0x##s##FFFF, 2, 0, c}, Package () {0x##s##FFFF, 3, 0, d}
#define SLOTS(s0, s1, s2, s3, s4, s5, s6, s7)							 \
	SLOT (s0, 16, 17, 18, 19), SLOT (s1, 17, 18, 19, 20), SLOT (s2, 18, 19, 20, 21),	 \
		SLOT (s3, 19, 20, 21, 22), SLOT (s4, 20, 21, 22, 23), SLOT (s5, 21, 22, 23, 16), \
		SLOT (s6, 22, 23, 16, 17), SLOT (s7, 23, 16, 17, 18)
			Name (_PRT, Package ()
			{
				SLOTS (0000, 0001, 0002, 0003, 0004, 0005, 0006, 0007),
				SLOTS (0008, 0009, 000A, 000B, 000C, 000D, 000E, 000F),
				SLOTS (0010, 0011, 0012, 0013, 0014, 0015, 0016, 0017),
				SLOTS (0018, 0019, 001A, 001B, 001C, 001D, 001E, 001F)
			})
		}

		Device (MBRD) // what belongs to the board itself: ECAM, power management, POST and A20 ports
		{
			Name (_HID, EisaId ("PNP0C02"))
			Name (_UID, 1)
			Name (_CRS, ResourceTemplate ()
			{
				Memory32Fixed (ReadWrite, 0xE0000000, 0x10000000)
				IO (Decode16, 0x0600, 0x0600, 1, 0x30)
				IO (Decode16, 0x0080, 0x0080, 1, 1)
				IO (Decode16, 0x0092, 0x0092, 1, 1)
			})
		}

		Device (COM1)
		{
			Name (_HID, EisaId ("PNP0501"))
			Name (_UID, 1)
			Method (_STA) { Return (DEVS (0)) }
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, 0x03F8, 0x03F8, 1, 8)
				IRQNoFlags () {4}
			})
		}

		Device (RTC)
		{
			Name (_HID, EisaId ("PNP0B00"))
			Method (_STA) { Return (DEVS (1)) }
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, 0x0070, 0x0070, 1, 2)
				IRQNoFlags () {8}
			})
		}

		Device (KBD)
		{
			Name (_HID, EisaId ("PNP0303"))
			Method (_STA) { Return (DEVS (2)) }
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, 0x0060, 0x0060, 1, 1)
				IO (Decode16, 0x0064, 0x0064, 1, 1)
				IRQNoFlags () {1}
			})
		}

		Device (MOU)
		{
			Name (_HID, EisaId ("PNP0F13"))
			Method (_STA) { Return (DEVS (2)) }
			Name (_CRS, ResourceTemplate () { IRQNoFlags () {12} })
		}

		Device (PEVT) // pvpanic: the identifier that Linux's driver looks for
		{
			Name (_HID, "QEMU0001")
			Method (_STA) { Return (DEVS (3)) }
			Name (_CRS, ResourceTemplate () { IO (Decode16, 0x0505, 0x0505, 1, 1) })
		}

		Device (VGEN) // Microsoft, "Virtual Machine Generation ID"
		{
			Name (_HID, "VIRE0001")
			Name (_CID, Package () {"VMGENCTR", "VM_Gen_Counter"})
			Name (_DDN, "VM_Gen_Counter")
			Method (_STA) { Return (DEVS (4)) }
			Name (HALF, Package () {0, 0})
			Method (ADDR, 0, Serialized)
			{
				HALF[0] = VGIA & 0xFFFFFFFF
				HALF[1] = VGIA >> 32
				Return (HALF)
			}
		}

		Method (DEVS, 1) // _STA of an optional device: bit Arg0 of VDEV
		{
			If (VDEV & (1 << Arg0))
			{
				Return (0x0F)
			}
			Return (0)
		}
	}

	Scope (\_GPE)
	{
		Method (_E00) // the generation identifier changed
		{
			Notify (\_SB.VGEN, 0x80)
		}
	}
}
